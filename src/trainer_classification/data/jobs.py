"""A job of `prepare`: some hundred images, each read and decoded once, to part files for every wanted format.

A part is a pure function of its images and options, so the shards do not depend on the number of workers, and a killed
run goes on with the parts that are there. Imports little: every worker process pays for it.

    <stem>.array    pixels of the good images, as the array will hold them, grey ones with one channel
    <stem>.beton    their payloads
    <stem>.tar      the files that cannot go into a tar as they are, converted to PNG
    <stem>.npz      the Part; written last, it makes the part whole
"""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import xxhash

from trainer_classification.data import beton
from trainer_classification.data.images import BadImageError, Decoded, Uint8, examine, padded, resized_x_first
from trainer_classification.data.reading import read_file

SIZE = 500  # images of a part


@dataclass(frozen=True)
class Geometry:
    """How images lie in the array: `side` px; resized whole and [x, y, c], or kept (padded) and [y, x, c]."""

    side: int
    resized: bool


@dataclass(frozen=True)
class Work:
    """What is made of each image.

    Attributes:
        geometry: of the array.
        formats: those to write, of "array", "beton" and "tar".
        beton: how its images are stored.
    """

    geometry: Geometry
    formats: tuple[str, ...]
    beton: beton.Storage


@dataclass(frozen=True)
class Part:
    """What a job found, one row an image; bad ones have a reason and zeros.

    Attributes:
        hashes: str [n], xxh3-128 of the file's bytes; "" if it could not be read.
        reasons: str [n], "" for good images.
        grey: bool [n].
        sizes: int32 [n, 2], width and height as decoded, upright.
        sums, squares: int64 [n, 3], of the pixel values in the array, per channel.
        bytes: int64 [n, 3], of each image in the array, the beton and the tar; 0 where that is not wanted.
        checks: uint64 [n, 3], xxh3-64 of these bytes.
        payloads: int32 [n, 3], the mode, width and height of the image in the beton.
        converted: bool [n], in the tar it is a PNG of the part, not the original file.
    """

    hashes: npt.NDArray[np.str_]
    reasons: npt.NDArray[np.str_]
    grey: npt.NDArray[np.bool_]
    sizes: npt.NDArray[np.int32]
    sums: npt.NDArray[np.int64]
    squares: npt.NDArray[np.int64]
    bytes: npt.NDArray[np.int64]
    checks: npt.NDArray[np.uint64]
    payloads: npt.NDArray[np.int32]
    converted: npt.NDArray[np.bool_]


FORMATS = ("array", "beton", "tar")  # the columns of `bytes` and `checks`


@dataclass
class _Row:
    """An image's row of the Part."""

    hash: str = ""
    reason: str = ""
    grey: bool = False
    size: tuple[int, int] = (0, 0)
    sums: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((2, 3), np.int64))
    bytes: list[int] = field(default_factory=lambda: [0, 0, 0])
    checks: list[int] = field(default_factory=lambda: [0, 0, 0])
    payload: tuple[int, int, int] = (0, 0, 0)
    converted: bool = False


def ignore_interrupts() -> None:
    """For worker processes: Ctrl-C is for the one that started them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def run_job(files: Sequence[str], work: Work, stem: Path) -> int:
    """Write the part of these images.

    Args:
        files: paths of the images.
        work: what to make of them.
        stem: path of the part without its suffix.

    Returns:
        How many images it looked at.
    """
    with ExitStack() as stack:
        opened: dict[str, BinaryIO] = {
            name: stack.enter_context(stem.with_suffix(f".{name}").open("wb")) for name in work.formats
        }
        rows = [_one(path, work, opened) for path in files]
    _save(_part(rows), stem.with_suffix(".npz"))
    return len(files)


def _one(path: str, work: Work, files: dict[str, BinaryIO]) -> _Row:
    row = _Row()
    try:
        data = read_file(path)
        row.hash = xxhash.xxh3_128_hexdigest(data)
        image = examine(data, os.path.splitext(path)[1])
        row.size = image.pixels.shape[1], image.pixels.shape[0]
        row.grey = image.pixels.shape[2] == 1
        pixels = _arranged(image.pixels, work.geometry)
    except OSError as error:
        row.reason = f"cannot be read: {error.strerror or error}"
        return row
    except BadImageError as error:
        row.reason = str(error)
        return row
    row.sums[:, : pixels.shape[2]] = _sums(pixels)
    if "array" in files:
        _append(files["array"], row, 0, pixels)
    if "beton" in files:
        payload = _payload(image, pixels, data, work)
        row.payload = payload.mode, payload.width, payload.height
        _append(files["beton"], row, 1, payload.data)
    if "tar" in files:
        row.converted = image.kind == ""
        member = _png(image.pixels) if row.converted else data
        _append(files["tar"] if row.converted else None, row, 2, member)
    return row


def _arranged(pixels: Uint8, geometry: Geometry) -> Uint8:
    return resized_x_first(pixels, geometry.side) if geometry.resized else padded(pixels, geometry.side)


def _sums(pixels: Uint8) -> npt.NDArray[np.int64]:
    from trainer_classification.kernels import resize

    return np.asarray(resize.sums(pixels))


def _append(file: BinaryIO | None, row: _Row, column: int, data: bytes | Uint8) -> None:
    """Note the bytes of an image in a format, and write them where a file is given."""
    content = data.data if isinstance(data, np.ndarray) else memoryview(data)
    row.bytes[column] = content.nbytes
    row.checks[column] = xxhash.xxh3_64_intdigest(content)
    if file is not None:
        file.write(content)


def _payload(image: Decoded, arranged: Uint8, data: bytes, work: Work) -> beton.Payload:
    """Small images as the array has them, so that both engines shift alike; larger ones as the storage says."""
    if not work.geometry.resized:
        return beton.raw_payload(arranged)
    return beton.payload(image, data, work.beton)


def _png(pixels: Uint8) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _part(rows: list[_Row]) -> Part:
    sums = np.array([row.sums for row in rows])
    return Part(
        hashes=np.array([row.hash for row in rows]),
        reasons=np.array([row.reason for row in rows]),
        grey=np.array([row.grey for row in rows]),
        sizes=np.array([row.size for row in rows], np.int32),
        sums=sums[:, 0],
        squares=sums[:, 1],
        bytes=np.array([row.bytes for row in rows], np.int64),
        checks=np.array([row.checks for row in rows], np.uint64),
        payloads=np.array([row.payload for row in rows], np.int32),
        converted=np.array([row.converted for row in rows]),
    )


def _save(part: Part, path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez(file, **vars(part))
    temporary.replace(path)


def load(path: Path) -> Part:
    """Read a Part."""
    with np.load(path) as content:
        return Part(**content)


def joined(parts: Sequence[Part]) -> Part:
    """The rows of all parts, in order."""
    return Part(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])})
