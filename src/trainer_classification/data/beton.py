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

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Uint8 = npt.NDArray[np.uint8]

VERSION = 2
JPEG, RAW = 0, 1
_IMAGE_TYPE, _INT_TYPE = 2, 1  # FFCV's ids of the fields
_LEAST_PAGE = 1 << 23
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
class Payload:
    """An image as a beton holds it: JPEG bytes, or raw uint8 [H, W, 3]."""

    mode: int
    width: int
    height: int
    data: bytes


def raw_payload(pixels: Uint8) -> Payload:
    """The pixels as they are; grey becomes RGB, as FFCV knows no other. uint8 [H, W, 1] or [H, W, 3]."""
    pixels = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    return Payload(RAW, pixels.shape[1], pixels.shape[0], pixels.tobytes())


def jpeg_payload(pixels: Uint8, original: bytes, longest_side: int, quality: int = 90) -> Payload:
    """JPEG of at most `longest_side` px; the original bytes where they fit already.

    Args:
        pixels: uint8 [H, W, C], decoded from `original`, upright.
        original: the file.
        longest_side: bound in px of the longer side; larger ones are resized, antialiased.
        quality: of images that are encoded anew.
    """
    from PIL import Image

    height, width = pixels.shape[:2]
    if max(height, width) <= longest_side and _plain_jpeg(original, width, height):
        return Payload(JPEG, width, height, original)
    image = Image.fromarray(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels)
    scale = min(1.0, longest_side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = image.resize(size, Image.Resampling.BILINEAR) if size != image.size else image
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality)
    return Payload(JPEG, size[0], size[1], content.getvalue())


def _plain_jpeg(original: bytes, width: int, height: int) -> bool:
    """Whether any JPEG decoder shows these bytes as RGB, upright and at this size."""
    from PIL import Image

    with Image.open(io.BytesIO(original)) as image:
        upright = image.getexif().get(0x0112, 1) == 1
        return image.format == "JPEG" and image.mode == "RGB" and upright and image.size == (width, height)


def write_beton(path: Path, payloads: Iterable[Payload], labels: npt.NDArray[np.int64], largest: int) -> None:
    """Write a split; the payloads are taken one at a time, so memory holds one image.

    Args:
        path: of the file.
        payloads: as many as labels.
        labels: int64 [n].
        largest: bytes of the largest payload, or more; sets the page size.
    """
    page = _LEAST_PAGE
    while page < largest:
        page *= 2
    samples = np.zeros(len(labels), _SAMPLE)
    samples["label"] = labels
    table = np.zeros(len(labels), _ALLOCATION)
    fields = _fields()
    with path.open("wb") as file:
        start = -(-(_HEADER.itemsize + fields.nbytes + samples.nbytes) // page) * page
        place = start
        for number, payload in enumerate(payloads):
            size = len(payload.data)
            if place % page + size > page:
                place += -place % page
            file.seek(place)
            file.write(payload.data)
            samples["image"][number] = (payload.mode, payload.width, payload.height, place)
            table[number] = (number, place, size)
            place += size
        assert number + 1 == len(labels)
        place += -place % page
        file.seek(place)
        file.write(table.tobytes())
        file.seek(0)
        header = np.array((VERSION, len(fields), page, len(labels), place), _HEADER)
        file.write(header.tobytes() + fields.tobytes() + samples.tobytes())


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
        places, sizes: uint64 [n], where in `data` an image's bytes are.
        labels: int64 [n].
    """

    data: Uint8
    modes: npt.NDArray[np.uint8]
    widths: npt.NDArray[np.uint16]
    heights: npt.NDArray[np.uint16]
    places: npt.NDArray[np.uint64]
    sizes: npt.NDArray[np.uint64]
    labels: npt.NDArray[np.int64]


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
    sizes = np.zeros(count, np.uint64)
    sizes[table["sample_id"]] = table["size"]
    image = samples["image"]
    return BetonStore(data, image["mode"], image["width"], image["height"], image["data_ptr"], sizes, samples["label"])
