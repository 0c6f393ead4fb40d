"""A job of `prepare`: some hundred images, each read and decoded once, to one part file.

A part is a pure function of its images and options, so the shards do not depend on the number of workers, and a killed
run goes on with the parts that are there. Imports little: every worker process pays for it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from trainer_classification.data.images import BadImageError, Uint8, decode, padded, resized_whole


@dataclass(frozen=True)
class Geometry:
    """How images lie in the array: `side` px; resized whole and [x, y, c], or kept (padded) and [y, x, c]."""

    side: int
    resized: bool


@dataclass(frozen=True)
class Part:
    """What a job found, one row an image; bad ones have a reason and no pixels.

    Attributes:
        hashes: str [n], xxh3-128 of the file's bytes; "" if it could not be read.
        reasons: str [n], "" for good images.
        grey: bool [n].
        sizes: int32 [n, 2], width and height as decoded, upright.
        sums, squares: int64 [n, 3], of the pixel values in the array, per channel.
    """

    hashes: npt.NDArray[np.str_]
    reasons: npt.NDArray[np.str_]
    grey: npt.NDArray[np.bool_]
    sizes: npt.NDArray[np.int32]
    sums: npt.NDArray[np.int64]
    squares: npt.NDArray[np.int64]


def ignore_interrupts() -> None:
    """For worker processes: Ctrl-C is for the one that started them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def run_job(files: Sequence[str], geometry: Geometry, stem: Path) -> int:
    """Write `stem`.bin, the pixels of the good images, then `stem`.npz, the Part, which makes it whole.

    Args:
        files: paths of the images.
        geometry: of the array.
        stem: path of the part without its suffix.

    Returns:
        How many images it looked at.
    """
    rows = [_one(path, geometry) for path in files]
    pixels = [row[0] for row in rows if row[0] is not None]
    colour = any(image.shape[2] == 3 for image in pixels)
    with stem.with_suffix(".bin").open("wb") as file:
        for image in pixels:
            file.write((np.repeat(image, 3, axis=2) if colour and image.shape[2] == 1 else image).tobytes())
    _save(_part(rows), stem.with_suffix(".npz"))
    return len(files)


def _one(path: str, geometry: Geometry) -> tuple[Uint8 | None, str, str, tuple[int, int]]:
    """(pixels or None, content hash, reason, (width, height)) of an image."""
    content, size = "", (0, 0)
    try:
        data = Path(path).read_bytes()
        content = xxhash.xxh3_128_hexdigest(data)
        pixels = decode(data, os.path.splitext(path)[1])
        size = pixels.shape[1], pixels.shape[0]
        if geometry.resized:
            return resized_whole(pixels, geometry.side).swapaxes(0, 1), content, "", size
        return padded(pixels, geometry.side), content, "", size
    except OSError as error:
        return None, content, f"cannot be read: {error.strerror or error}", size
    except BadImageError as error:
        return None, content, str(error), size


def _part(rows: list[tuple[Uint8 | None, str, str, tuple[int, int]]]) -> Part:
    sums = np.zeros((2, len(rows), 3), np.int64)
    for row, (pixels, *_) in enumerate(rows):
        if pixels is not None:
            values = pixels.reshape(-1, pixels.shape[2])
            sums[0, row] = values.sum(0, dtype=np.int64)
            sums[1, row] = np.square(values, dtype=np.uint16).sum(0, dtype=np.int64)
    return Part(
        hashes=np.array([row[1] for row in rows]),
        reasons=np.array([row[2] for row in rows]),
        grey=np.array([row[0] is not None and row[0].shape[2] == 1 for row in rows]),
        sizes=np.array([row[3] for row in rows], np.int32),
        sums=sums[0],
        squares=sums[1],
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
