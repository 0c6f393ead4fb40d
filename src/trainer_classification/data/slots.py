"""Slots: the places of images in a shard that has them all, so that jobs write pixels to where they stay.

Only where an image turns out to be bad, or of another size than the table says, is what was written copied.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]

FORMATS = ("array", "beton", "tar")  # in this order wherever there is a column for each


@dataclass(frozen=True)
class Slots:
    """The slots of some images in one format.

    Attributes:
        files: the shards to be.
        file: int64 [n], which of `files` an image's slot is in.
        places, sizes: int64 [n], where in it, and how many bytes.
        samples: int64 [n], the sample ids if every image is good.
    """

    files: Sequence[Path]
    file: Int64
    places: Int64
    sizes: Int64
    samples: Int64

    def of(self, rows: slice) -> Slots:
        """Those of some of the images."""
        return Slots(self.files, self.file[rows], self.places[rows], self.sizes[rows], self.samples[rows])

    def make_files(self) -> None:
        """Make the files, empty, or leave those as they are that an interrupted run has made."""
        ends = np.zeros(len(self.files), np.int64)
        np.maximum.at(ends, self.file, self.places + self.sizes)
        for path, end in zip(self.files, ends.tolist(), strict=True):
            with path.open("ab") as file:
                file.truncate(end)


class SlotWriter:
    """Writes images to their slots; a context manager."""

    def __init__(self, slots: Slots | None) -> None:
        self._slots = slots
        self._opened = ExitStack()
        self._descriptors: dict[int, int] = {}

    def __enter__(self) -> SlotWriter:
        return self

    def __exit__(self, *_: Any) -> None:
        self._opened.close()

    def write(self, number: int, content: memoryview) -> bool:
        """Write the image of that number; False: it has no slot of this size, and nothing was written."""
        slots = self._slots
        if slots is None or slots.sizes[number] != content.nbytes:
            return False
        write_at(self._descriptor(int(slots.file[number])), content, int(slots.places[number]))
        return True

    def _descriptor(self, file: int) -> int:
        if file not in self._descriptors:
            assert self._slots is not None
            self._descriptors[file] = os.open(self._slots.files[file], os.O_WRONLY)
            self._opened.callback(os.close, self._descriptors[file])
        return self._descriptors[file]


def write_at(descriptor: int, content: memoryview, place: int) -> None:
    """Write all bytes of a buffer to a place in a file."""
    left = content.cast("B")
    while left:
        written = os.pwrite(descriptor, left, place)
        left, place = left[written:], place + written
