"""What all formats of prepared images share: the shape of their images, and where images lie in files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer_classification.arrays import Int64

GRAY_SHIFT = 8  # bits that gray images of 16 and 32 bits lose: the upper 8 of 16 are kept

# Larger images are stored at this many training sizes: a crop is seldom enlarged.
SIDE_PER_TRAIN_SIZE = 1.25

# With sides that much larger than the array's, crops of planes are as close to those
# of the originals as the array's (docs/engines.md).
_PLANES_SIDE_PER_SIDE = 1.04


@dataclass(frozen=True)
class ArrayLayout:
    """The shape of the images in the array.

    Attributes:
        side: of the square image, in px.
        resized: True: each image is resized whole and stored as [x, y, c]. False:
            each keeps its size, is padded with zeros and stored as [y, x, c].
        channels: 1 if every image is gray, else 3.
    """

    side: int
    resized: bool
    channels: int

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        return self.side**2 * self.channels

    @property
    def planes_side(self) -> int:
        """Side in px of the images in the planes format; even."""
        return 2 * round(_PLANES_SIDE_PER_SIDE * self.side / 2)

    def planes_bytes(self, count: int) -> int | None:
        """Return the bytes of some images in the planes format; None where that saves nothing: small or gray ones."""
        if not self.resized or self.channels == 1:
            return None
        return count * (self.planes_side**2 * 3 // 2)


@dataclass(frozen=True)
class SplitShards:
    """Which split of a prepared dataset a format writes or reads.

    Attributes:
        folder: that holds the manifest.
        split: "train", "validation" or "test".
        count: number of images.
        layout: of the array.
    """

    folder: Path
    split: str
    count: int
    layout: ArrayLayout


@dataclass(frozen=True)
class Extents:
    """Where the images of one shard lie, as the reader of its format finds them.

    Attributes:
        path: of the shard, relative to the manifest's folder.
        samples: int64 [n], sample ids, in the order in which the images lie.
        offsets, sizes: int64 [n], position in the file and length, in bytes.
    """

    path: str
    samples: Int64
    offsets: Int64
    sizes: Int64


def group_rows(numbers: Int64) -> Iterator[tuple[int, Int64]]:
    """Yield (number, its rows in ascending order) of each number, in one pass however many there are.

    Args:
        numbers: int64 [n], such as the shard of each image.
    """
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order])) + 1
    for rows in np.split(order, starts):
        if len(rows):
            yield int(numbers[rows[0]]), rows
