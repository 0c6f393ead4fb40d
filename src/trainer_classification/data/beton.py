"""The `beton` format of FFCV (version 2), laid out and read without FFCV.

    header               version u2, fields u2, page size u4, samples u8, offset of the allocation table u8
    field descriptors    type u1, name 16 bytes, arguments 1,024 bytes; here an RGB image and an integer label
    metadata             one per sample: mode u1 (0 JPEG, 1 raw), width u2, height u2, data offset u8; label i8
    pages                the data; an image lies within one page
    allocation table     one entry per sample: id u8, offset u8, bytes u8

All numbers are little endian, structures are padded as C does. Source:
`ffcv/types.py`, `writer.py`, `fields/rgb_image.py`, `fields/basics.py` and
`memory_allocator.py` of FFCV 1.0.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer_classification.arrays import Int64, Integers, Uint8
from trainer_classification.data.formats import Extents, SplitShards
from trainer_classification.data.manifest import Manifest, check_files, check_format, damaged

VERSION = 2
JPEG = 0  # modes of an image
RAW = 1
_IMAGE_TYPE = 2  # FFCV's ids of the two kinds of fields
_INT_TYPE = 1
_PAGE = 1 << 23  # FFCV's default
SMALL_PAGE = 1 << 21  # FFCV's minimum, for splits that would not fill a few default pages
_MAX_SIDE = (1 << 16) - 1
_HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
_FIELD = np.dtype(
    [("type_id", "<u1"), ("name", "<u1", 16), ("arguments", "<u1", (1024,))], align=True
)
_FIELDS_END = _HEADER.itemsize + 2 * _FIELD.itemsize
_IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
_SAMPLE = np.dtype([("image", _IMAGE), ("label", "<i8")], align=True)
_ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])


@dataclass(frozen=True)
class BetonLayout:
    """Where everything in a beton lies.

    Attributes:
        head: bytes at the start of the file: header, field descriptors, metadata.
        offsets: int64 [n], of each image's bytes.
        table_offset: of the allocation table, in bytes.
        table: the allocation table, which ends the file.
    """

    head: bytes
    offsets: Int64
    table_offset: int
    table: bytes


def path(split: str) -> str:
    """Return the path of a split, relative to the manifest's folder."""
    return f"beton/{split}.beton"


def layout(images: Integers, sizes: Int64, labels: Integers) -> BetonLayout:
    """Lay out a split.

    Args:
        images: int [n, 3], mode, width and height of each image.
        sizes: int64 [n], bytes of each image.
        labels: int [n].

    Raises:
        ValueError: a side is longer than the format's 16 bits.
    """
    longest = int(images[:, 1:].max())
    if longest > _MAX_SIDE:
        raise ValueError(
            f"A beton holds images of up to {_MAX_SIDE} px a side, and one has {longest}: bound them with --beton-side."
        )

    page = _page_size(sizes)
    fields = _fields()
    head_bytes = _HEADER.itemsize + fields.nbytes + len(labels) * _SAMPLE.itemsize
    offsets, end = _offsets(sizes, _round_up(head_bytes, page), page)

    samples = np.zeros(len(labels), _SAMPLE)
    samples["label"] = labels
    for column, name in enumerate(("mode", "width", "height")):
        samples["image"][name] = images[:, column]
    samples["image"]["data_ptr"] = offsets

    table = np.zeros(len(labels), _ALLOCATION)
    table["sample_id"] = np.arange(len(labels))
    table["ptr"] = offsets
    table["size"] = sizes

    header = np.array((VERSION, len(fields), page, len(labels), end), _HEADER)
    head = header.tobytes() + fields.tobytes() + samples.tobytes()

    return BetonLayout(head, offsets, end, table.tobytes())


def _page_size(sizes: Int64) -> int:
    page = _PAGE if sizes.sum() > 8 * _PAGE else SMALL_PAGE
    while page < sizes.max():
        page *= 2
    return page


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _offsets(sizes: Int64, start: int, page: int) -> tuple[Int64, int]:
    """Return the offset of each image, none across a page, and where the pages end."""
    offsets = []
    offset = start
    for size in sizes.tolist():
        if offset % page + size > page:
            offset = _round_up(offset, page)
        offsets.append(offset)
        offset += size
    return np.array(offsets, np.int64), _round_up(offset, page)


def _fields() -> np.ndarray[tuple[int], np.dtype[np.void]]:
    fields = np.zeros(2, _FIELD)
    for field, kind, name in zip(
        fields, (_IMAGE_TYPE, _INT_TYPE), (b"image", b"label"), strict=True
    ):
        field["type_id"] = kind
        field["name"][: len(name)] = np.frombuffer(name, np.uint8)
    return fields


@dataclass(frozen=True)
class BetonStore:
    """A memory-mapped beton.

    Attributes:
        data: uint8, the whole file.
        modes: uint8 [n], JPEG or RAW.
        widths, heights: uint16 [n], in px.
        offsets, sizes: int64 [n], where the bytes of each image are in `data`.
        labels: int64 [n].
    """

    data: Uint8
    modes: npt.NDArray[np.uint8]
    widths: npt.NDArray[np.uint16]
    heights: npt.NDArray[np.uint16]
    offsets: Int64
    sizes: Int64
    labels: Int64

    @property
    def places(self) -> Int64:
        """Return `offsets` under its former name, for loaders and benchmarks that still use it."""
        return self.offsets

    def image(self, sample: int) -> Uint8:
        """Return the bytes of an image, uint8 [size], without a copy."""
        start = int(self.offsets[sample])
        return self.data[start : start + int(self.sizes[sample])]


def open_beton(path: Path) -> BetonStore:
    """Memory-map a beton of one RGB image field and one integer field, written by us or by FFCV.

    Raises:
        ValueError: it is not of version 2, has other fields, is cut off, or says
            that images are where they cannot be.
    """
    data, head, table_offset = _find_index(path)
    count = (head - _FIELDS_END) // _SAMPLE.itemsize
    samples = np.frombuffer(data, _SAMPLE, count, _FIELDS_END)
    table = np.frombuffer(data, _ALLOCATION, count, table_offset)
    if (np.sort(table["sample_id"]) != np.arange(count)).any():
        raise ValueError(f"{path} is damaged (ids of samples): prepare it again.")
    sizes = np.zeros(count, np.int64)
    sizes[table["sample_id"]] = table["size"].astype(np.int64)
    _check_images(path, len(data), samples["image"], sizes)

    # Copied out of the structures, in which they are not aligned.
    image = samples["image"]

    return BetonStore(
        data=data,
        modes=np.ascontiguousarray(image["mode"]),
        widths=np.ascontiguousarray(image["width"]),
        heights=np.ascontiguousarray(image["height"]),
        offsets=image["data_ptr"].astype(np.int64),
        sizes=sizes,
        labels=samples["label"].copy(),
    )


def _find_index(path: Path) -> tuple[npt.NDArray[np.uint8], int, int]:
    """Return a beton, memory-mapped, the bytes of its head, and where its allocation table is."""
    size = path.stat().st_size
    if size <= _FIELDS_END:
        raise ValueError(f"{path} is cut off ({size} bytes): prepare it again.")
    data = np.memmap(path, np.uint8, "r")
    header = np.frombuffer(data, _HEADER, 1)[0]
    fields = np.frombuffer(data, _FIELD, 2, _HEADER.itemsize)
    if header["version"] != VERSION or fields["type_id"].tolist() != [_IMAGE_TYPE, _INT_TYPE]:
        raise ValueError(
            f"{path} is no beton of version {VERSION} with an image and a label: prepare it again."
        )

    count = int(header["num_samples"])
    table_offset = int(header["alloc_table_ptr"])
    head = _FIELDS_END + count * _SAMPLE.itemsize
    if head > size or table_offset + count * _ALLOCATION.itemsize > size:
        raise ValueError(f"{path} is cut off ({size} bytes): prepare it again.")
    return data, head, table_offset


def _check_images(path: Path, size: int, images: np.ndarray[Any, Any], sizes: Int64) -> None:
    """Check that every image lies in the file: decoders of others read wherever they are told."""
    is_inside = (images["data_ptr"] <= size) & (sizes >= 0) & (sizes <= size)
    is_inside &= images["data_ptr"].astype(np.int64) + sizes <= size
    pixels = 3 * images["width"].astype(np.int64) * images["height"]
    is_raw = images["mode"] == RAW
    is_whole = np.where(is_raw, sizes == pixels, images["mode"] == JPEG) & (pixels > 0)
    if not (is_inside & is_whole).all():
        sample = int(np.flatnonzero(~(is_inside & is_whole))[0])
        raise ValueError(f"{path} is damaged (place or size of image {sample}): prepare it again.")


def hash_index(path: Path) -> str:
    """Return the xxh3-128 of the head and the allocation table of a beton, as 32 hex digits.

    Raises:
        ValueError: the beton is damaged.
    """
    import xxhash  # not needed to train on a prepared dataset

    data, head, table_offset = _find_index(path)
    state = xxhash.xxh3_128(data[:head].data)
    state.update(data[table_offset:].data)
    return state.hexdigest()


def open_split(folder: Path, manifest: Manifest, split: str) -> BetonStore:
    """Memory-map a split of a prepared dataset.

    Raises:
        ValueError: the split or the format is missing or damaged.
    """
    check_format(folder, manifest, "beton")
    check_files(folder, manifest, split, [path(split)])
    expected = manifest.files[path(split)].index
    if expected and find_spec("xxhash") and hash_index(folder / path(split)) != expected:
        raise damaged(folder / path(split), manifest, "its index is not what was written")
    return open_beton(folder / path(split))


def extents(shards: SplitShards) -> list[Extents]:
    """Return where a reader finds the images of a split."""
    store = open_beton(shards.folder / path(shards.split))
    return [Extents(path(shards.split), np.arange(shards.count), store.offsets, store.sizes)]
