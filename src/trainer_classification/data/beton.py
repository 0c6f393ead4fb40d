"""The `beton` format of FFCV (version 2), written and read without FFCV.

    header               version u2, fields u2, page size u4, samples u8, place of the allocation table u8
    field descriptors    type u1, name 16 bytes, arguments 1,024 bytes; here an RGB image and an integer label
    metadata             a sample: mode u1 (0 JPEG, 1 raw), width u2, height u2, place of the data u8; label i8
    pages                of the data; an image lies within one page
    allocation table     a sample: id u8, place u8, bytes u8

All little endian, structures padded as C does. Source: `ffcv/types.py`, `writer.py`, `fields/rgb_image.py`,
`fields/basics.py` and `memory_allocator.py` of FFCV 1.0.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from trainer_classification.preparation.preallocated import Extents

if TYPE_CHECKING:  # who only reads needs neither Pillow nor simplejpeg
    from trainer_classification.data.decode import DecodedImage, ImageInfo, YCbCrImage
    from trainer_classification.preparation.assemble import JobOutputs

Uint8 = npt.NDArray[np.uint8]

VERSION = 2
JPEG, RAW = 0, 1
_IMAGE_TYPE, _INT_TYPE = 2, 1  # FFCV's ids of the fields
_PAGE, _SMALL_PAGE = 1 << 23, 1 << 21  # FFCV's default and its least; few images would not fill the former
_LONGEST = (1 << 16) - 1
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
_FIELD = np.dtype([("type_id", "<u1"), ("name", "<u1", 16), ("arguments", "<u1", (1024,))], align=True)
_IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
_SAMPLE = np.dtype([("image", _IMAGE), ("label", "<i8")], align=True)
_ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])


@dataclass(frozen=True)
class Storage:
    """How larger images are stored.

    Attributes:
        mode: "jpg" or "raw".
        side: bound in px of the longer side; larger images are resized, antialiased. 0: none.
        quality: of JPEGs that are encoded anew.
    """

    mode: Literal["jpg", "raw"]
    side: int = 0
    quality: int = 90


@dataclass(frozen=True)
class Payload:
    """An image as a beton holds it: JPEG bytes, or raw uint8 [H, W, 3]."""

    mode: int
    width: int
    height: int
    data: bytes | Uint8


def raw_payload(pixels: Uint8) -> Payload:
    """The pixels as they are; grey becomes RGB, as FFCV knows no other. uint8 [H, W, 1] or [H, W, 3]."""
    pixels = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    return Payload(RAW, pixels.shape[1], pixels.shape[0], np.ascontiguousarray(pixels))


def payload(image: DecodedImage | YCbCrImage, original: bytes, storage: Storage) -> Payload:
    """An image as `storage` says; a JPEG that fits already keeps its bytes.

    Args:
        image: decoded from `original`.
        original: the file.
        storage: how to store it.
    """
    if keeps_bytes(image.head, storage):
        return original_payload(image.head, original)
    width, height = bounded(image.head.width, image.head.height, storage)
    fits = (width, height) == (image.head.width, image.head.height)
    raw = raw_payload(image.pixels if fits else image.resized(width, height))
    if storage.mode == "raw":
        return raw
    import simplejpeg  # a bare machine that only reads has none

    content = simplejpeg.encode_jpeg(raw.data, storage.quality, "RGB", "420")
    return Payload(JPEG, raw.width, raw.height, content)


def keeps_bytes(head: ImageInfo, storage: Storage) -> bool:
    """Whether a beton holds the file itself."""
    fits = bounded(head.width, head.height, storage) == (head.width, head.height)
    return storage.mode == "jpg" and fits and head.kind == "jpeg" and head.upright and head.channels == 3


def original_payload(head: ImageInfo, original: bytes) -> Payload:
    """A JPEG as it is."""
    return Payload(JPEG, head.width, head.height, original)


def bounded(width: int, height: int, storage: Storage) -> tuple[int, int]:
    """Width and height, in px, at which an image is stored."""
    scale = storage.side / max(width, height)
    if storage.side == 0 or scale >= 1:
        return width, height
    return max(1, round(width * scale)), max(1, round(height * scale))


@dataclass(frozen=True)
class Layout:
    """Where everything of a beton lies.

    Attributes:
        head: bytes at the start of the file: header, field descriptors, metadata.
        places: int64 [n], of each image's bytes.
        table_place, table: the allocation table, which ends the file.
    """

    head: bytes
    places: npt.NDArray[np.int64]
    table_place: int
    table: bytes

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.table_place + len(self.table)


def layout(
    payloads: npt.NDArray[np.signedinteger[Any]], sizes: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]
) -> Layout:
    """Lay out a split.

    Args:
        payloads: int [n, 3], mode, width and height of each image.
        sizes: int64 [n], its bytes.
        labels: int64 [n].

    Raises:
        ValueError: a side is longer than the format's 16 bits.
    """
    if payloads[:, 1:].max() > _LONGEST:
        raise ValueError(f"A beton holds images of up to {_LONGEST} px a side: bound them with --beton-side.")
    page = _PAGE if sizes.sum() > 8 * _PAGE else _SMALL_PAGE
    while page < sizes.max():
        page *= 2
    samples, table, fields = np.zeros(len(labels), _SAMPLE), np.zeros(len(labels), _ALLOCATION), _fields()
    start = -(-(_HEADER.itemsize + fields.nbytes + samples.nbytes) // page) * page
    places, end = _places(sizes, start, page)
    samples["label"] = labels
    for column, name in enumerate(("mode", "width", "height")):
        samples["image"][name] = payloads[:, column]
    samples["image"]["data_ptr"] = places
    table["sample_id"], table["ptr"], table["size"] = np.arange(len(labels)), places, sizes
    header = np.array((VERSION, len(fields), page, len(labels), end), _HEADER)
    return Layout(header.tobytes() + fields.tobytes() + samples.tobytes(), places, end, table.tobytes())


def _places(sizes: npt.NDArray[np.int64], start: int, page: int) -> tuple[npt.NDArray[np.int64], int]:
    """Place of each image, none across a page, and where the pages end."""
    places, place = [], start
    for size in sizes.tolist():
        if place % page + size > page:
            place += -place % page
        places.append(place)
        place += size
    return np.array(places, np.int64), place + -place % page


def write_beton(path: Path, payloads: Sequence[Payload], labels: npt.NDArray[np.int64]) -> None:
    """Write a split from payloads in memory, as many as labels."""
    data = [bytes(payload.data) for payload in payloads]
    about = np.array([(payload.mode, payload.width, payload.height) for payload in payloads])
    plan = layout(about, np.array([len(content) for content in data], np.int64), labels)
    with path.open("wb") as file:
        file.write(plan.head)
        for place, content in zip(plan.places.tolist(), data, strict=True):
            file.seek(place)
            file.write(content)
        file.seek(plan.table_place)
        file.write(plan.table)


def path(split: str) -> str:
    """Path of a split, relative to the manifest's folder."""
    return f"beton/{split}.beton"


def write_split(
    folder: Path,
    split: str,
    parts: JobOutputs,
    rows: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    side: int,
    channels: int,
) -> list[str]:
    """Write a split from the parts of the jobs, as `array.write_split`."""
    from trainer_classification.preparation.assemble import gather

    plan = layout(parts.found.payloads[rows], parts.found.bytes[rows, 1], labels)
    gather(parts, "beton", rows, folder / path(split), plan.places)
    with (folder / path(split)).open("r+b") as file:
        file.write(plan.head)
        file.seek(plan.table_place)
        file.write(plan.table)
        file.truncate()
    return [path(split)]


def extents(folder: Path, split: str, count: int, side: int, channels: int) -> list[Extents]:
    """Where a reader finds the samples of each file, to check what was written."""
    store = open_beton(folder / path(split))
    return [Extents(path(split), np.arange(count), store.places, store.sizes)]


def _fields() -> np.ndarray[tuple[int], np.dtype[np.void]]:
    fields = np.zeros(2, _FIELD)
    for field, kind, name in zip(fields, (_IMAGE_TYPE, _INT_TYPE), (b"image", b"label"), strict=True):
        field["type_id"] = kind
        field["name"][: len(name)] = np.frombuffer(name, np.uint8)
    return fields


@dataclass(frozen=True)
class BetonStore:
    """A beton in memory's reach.

    Attributes:
        data: uint8, the whole file, memory-mapped.
        modes: uint8 [n], JPEG or RAW.
        widths, heights: [n], in px.
        places, sizes: int64 [n], where in `data` an image's bytes are.
        labels: int64 [n].
    """

    data: Uint8
    modes: npt.NDArray[np.uint8]
    widths: npt.NDArray[np.uint16]
    heights: npt.NDArray[np.uint16]
    places: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]

    def image(self, sample: int) -> Uint8:
        """The bytes of an image, uint8 [size], not copied."""
        start = int(self.places[sample])
        return self.data[start : start + int(self.sizes[sample])]


def open_beton(path: Path) -> BetonStore:
    """Memory-map a beton of one RGB image field and one integer field, ours or FFCV's.

    Raises:
        ValueError: it is not of version 2, has other fields, or is cut off.
    """
    data = np.memmap(path, np.uint8, "r")
    header = np.frombuffer(data, _HEADER, 1)[0]
    fields = np.frombuffer(data, _FIELD, 2, _HEADER.itemsize) if len(data) > 4096 else np.zeros(2, _FIELD)
    if header["version"] != VERSION or fields["type_id"].tolist() != [_IMAGE_TYPE, _INT_TYPE]:
        raise ValueError(f"{path} is no beton of version {VERSION} with an image and a label: prepare it again.")
    count, place = int(header["num_samples"]), int(header["alloc_table_ptr"])
    if place + count * _ALLOCATION.itemsize > len(data):
        raise ValueError(f"{path} is cut off ({len(data)} bytes): prepare it again.")
    samples = np.frombuffer(data, _SAMPLE, count, _HEADER.itemsize + fields.nbytes)
    table = np.frombuffer(data, _ALLOCATION, count, place)
    sizes = np.zeros(count, np.int64)
    sizes[table["sample_id"]] = table["size"]
    # Copied out of the structures, where they are not aligned.
    image = samples["image"]
    mode, width, height = (np.ascontiguousarray(image[name]) for name in ("mode", "width", "height"))
    return BetonStore(data, mode, width, height, image["data_ptr"].astype(np.int64), sizes, samples["label"].copy())
