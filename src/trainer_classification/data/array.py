"""The `array` format: per split one raw uint8 file that is memory-mapped.

array/<split>.images.bin    uint8 [N, S, S, C], no header; an image's bytes are [y, x, c], or [x, y, c] for "WHC"

Labels and the original sizes are in the split's table (`table.py`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from trainer_classification.data.manifest import Manifest, check_files, check_format
from trainer_classification.data.table import open_table
from trainer_classification.preparation.preallocated import Extents

if TYPE_CHECKING:
    from trainer_classification.preparation.assemble import JobOutputs


@dataclass(frozen=True)
class ArrayStore:
    """One split of the array format.

    Attributes:
        images: uint8 [N, S, S, C], memory-mapped, read only.
        labels: int64 [N].
        sizes: int32 [N, 2], width and height of the originals in px.
        layout: "HWC", or "WHC": images[n] is [x, y, c].
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int32]
    layout: Literal["HWC", "WHC"] = "HWC"


def path(split: str) -> str:
    """Path of a split's images, relative to the manifest's folder."""
    return f"array/{split}.images.bin"


def open_array(folder: Path, manifest: Manifest, split: str) -> ArrayStore:
    """Memory-map a split.

    Raises:
        ValueError: the split or the format is not there, or a file has not the size that the manifest says.
    """
    table = open_table(folder, manifest, split)
    check_format(folder, manifest, "array")
    check_files(folder, manifest, split, [path(split)])
    side = manifest.image_size
    shape = (manifest.splits[split].count, side, side, manifest.channels)
    images = np.memmap(folder / path(split), np.uint8, "r", shape=shape)
    return ArrayStore(images, table.labels, table.sizes, manifest.layout)


def write_split(
    folder: Path,
    split: str,
    parts: JobOutputs,
    rows: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    side: int,
    channels: int,
) -> list[str]:
    """Write a split from the parts of the jobs.

    Args:
        folder: gets `array/`.
        split: its name.
        parts: of all images.
        rows: int64 [N], of the parts: the row of each sample.
        labels: int64 [N].
        side, channels: of the array.

    Returns:
        Paths of the files written, relative to `folder`.
    """
    from trainer_classification.preparation.assemble import gather

    image = side * side * channels
    gather(parts, "array", rows, folder / path(split), places(len(rows), image))
    os.truncate(folder / path(split), len(rows) * image)
    return [path(split)]


def places(count: int, size: int) -> npt.NDArray[np.int64]:
    """Where images of so many bytes each lie: int64 [count]."""
    return np.arange(count, dtype=np.int64) * size


def extents(folder: Path, split: str, count: int, side: int, channels: int) -> list[Extents]:
    """Where a reader finds the samples of each file, to check what was written."""
    image = side * side * channels
    return [Extents(path(split), np.arange(count), places(count, image), np.full(count, image))]
