"""Slots: the places of images in a shard that has them all, so that jobs write pixels to where they stay.

Only where an image turns out to be bad, or of another size than the table says, is what was written copied.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]

# Written by one call. More is a hundredth quicker at best; but the page cache then takes pieces of memory that the
# kernel may have to make room for first, and now and then all of it takes half as long again.
_BYTES_AT_ONCE = 1 << 18
_BYTES_WAITING = 1 << 22  # for all files of a format, as tars have many; or an image more
_BUFFERS_AT_ONCE = 1024  # the most that Linux takes: IOV_MAX

FORMATS = ("array", "beton", "tar")  # in this order wherever there is a column for each


@dataclass(frozen=True)
class PreallocatedRegions:
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

    def of(self, rows: slice) -> PreallocatedRegions:
        """Those of some of the images."""
        return PreallocatedRegions(self.files, self.file[rows], self.places[rows], self.sizes[rows], self.samples[rows])

    def make_files(self) -> None:
        """Make the files, empty, or leave those as they are that an interrupted run has made.

        Raises:
            OSError: the disk is full.
        """
        ends = np.zeros(len(self.files), np.int64)
        np.maximum.at(ends, self.file, self.places + self.sizes)
        for path, end in zip(self.files, ends.tolist(), strict=True):
            with path.open("ab") as file:
                file.truncate(end)
                _take_room(path, file.fileno(), end)


@dataclass(frozen=True)
class Extents:
    """Where the images of a shard lie, as its reader finds them.

    Attributes:
        path: of the shard, relative to the manifest's folder.
        samples: int64 [n], their ids.
        places, sizes: int64 [n], where in the file, and how many bytes.
    """

    path: str
    samples: Int64
    places: Int64
    sizes: Int64


class RegionWriter:
    """Writes images to their slots, neighbours together; a context manager, at whose end all are written."""

    def __init__(self, slots: PreallocatedRegions | None) -> None:
        self._slots = slots
        self._runs: dict[int, _Run] = {}
        self._waiting = 0  # bytes

    def __enter__(self) -> RegionWriter:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        with ExitStack() as stack:
            for run in self._runs.values():
                stack.callback(os.close, run.descriptor)
                if failed is None:
                    stack.callback(run.write)

    def add(self, number: int, content: memoryview) -> bool:
        """Write the image of that number, now or later; False: it has no slot of this size, and is not written."""
        slots = self._slots
        if slots is None or slots.sizes[number] != content.nbytes:
            return False
        file, place = int(slots.file[number]), int(slots.places[number])
        if file not in self._runs:
            self._runs[file] = _Run(os.open(slots.files[file], os.O_WRONLY))
        run = self._runs[file]
        if not run.goes_on(place):
            self._waiting -= run.write()
        run.add(content, place)
        self._waiting += content.nbytes
        if self._waiting > _BYTES_WAITING:
            self._waiting -= sum(run.write() for run in self._runs.values())
        return True


class _Run:
    """Images that lie one behind the other in a file, until they are written at once: half the time of one by one."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._waiting: list[memoryview] = []
        self._start = self._end = 0

    def goes_on(self, place: int) -> bool:
        """Whether an image there can wait with those that do."""
        full = self._end - self._start >= _BYTES_AT_ONCE or len(self._waiting) == _BUFFERS_AT_ONCE
        return place == self._end and not full

    def add(self, content: memoryview, place: int) -> None:
        if not self._waiting:
            self._start = place
        self._waiting.append(content)
        self._end = place + content.nbytes

    def write(self) -> int:
        """Write those that wait; returns their bytes."""
        write_at(self.descriptor, self._waiting, self._start)
        self._waiting, written, self._start = [], self._end - self._start, self._end
        return written


def _take_room(path: Path, descriptor: int, size: int) -> None:
    """Give a file its blocks now: sooner than with each write, and a full disk is found before the work."""
    error = _fallocate(descriptor, size) if size else 0
    if error in (errno.ENOSPC, errno.EDQUOT):
        raise OSError(error, os.strerror(error), str(path))


def _fallocate(descriptor: int, size: int) -> int:
    """Linux's fallocate(2): 0, or the errno.

    Not `os.posix_fallocate`, which writes to every block where the file system (NFS, for one) cannot do it.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)  # macOS has none
    if call is None or call(descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(size)) == 0:
        return 0
    return ctypes.get_errno()


def write_at(descriptor: int, contents: Sequence[memoryview], place: int) -> None:
    """Write all bytes of at most 1024 buffers, one behind the other, to a place in a file."""
    left = [content.cast("B") for content in contents]
    while left:
        written = os.pwritev(descriptor, left, place)
        place += written
        while left and written >= left[0].nbytes:
            written -= left.pop(0).nbytes
        if left:
            left[0] = left[0][written:]
