"""Preallocated regions: the bytes of a shard that belong to one image, known before it is decoded.

Jobs write images straight into them. Only where an image turns out to be bad, or
of another size than the table says, is what was written copied into a shard of
its own.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer_classification.arrays import Int32
from trainer_classification.files import is_disk_full

# Bytes of one write. More is a hundredth faster at best, and needs larger pieces
# of page cache: where the kernel has to make room for these first, the whole of
# prepare sometimes takes half as long again.
_BYTES_AT_ONCE = 1 << 18
_BYTES_WAITING = 1 << 22  # limit over all shards of a format, as a tar has many
_BUFFERS_AT_ONCE = 1024  # IOV_MAX of Linux


@dataclass(frozen=True)
class PreallocatedRegions:
    """The regions of some images in one format.

    Attributes:
        files: paths of the future shards, as text: each job takes a few hundred
            with it, and pickling a Path takes ten times as long.
        file: int32 [n], which of `files` the region of an image is in.
        offsets, sizes: int64 or uint32 [n], of the region in that file, in bytes.
    """

    files: Sequence[str]
    file: Int32
    offsets: npt.NDArray[np.integer[Any]]
    sizes: npt.NDArray[np.integer[Any]]

    def select(self, rows: slice) -> PreallocatedRegions:
        """Return the regions of some of the images, and of the files only those that have them."""
        used, file = np.unique(self.file[rows], return_inverse=True)
        files = [self.files[number] for number in used.tolist()]
        return PreallocatedRegions(
            files, file.astype(np.int32), self.offsets[rows], self.sizes[rows]
        )

    def make_files(self) -> None:
        """Make the files at their full size.

        Files that an interrupted run has made keep their content.

        Raises:
            OSError: the disk is full.
        """
        ends = np.zeros(len(self.files), np.int64)
        np.maximum.at(ends, self.file, np.add(self.offsets, self.sizes, dtype=np.int64))
        for path, end in zip(self.files, ends.tolist(), strict=True):
            with open(path, "ab") as file:
                file.truncate(end)
                _allocate(path, file.fileno(), end)


class RegionWriter:
    """Write images to their regions, neighbors together.

    A context manager: at its end all are written.
    """

    def __init__(self, regions: PreallocatedRegions | None) -> None:
        self._regions = regions
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
        """Write the image of that number, now or later.

        Returns:
            False if it has no region of this size; then it is not written.
        """
        regions = self._regions
        if regions is None or regions.sizes[number] != content.nbytes:
            return False

        file = int(regions.file[number])
        offset = int(regions.offsets[number])
        if file not in self._runs:
            self._runs[file] = _Run(os.open(regions.files[file], os.O_WRONLY))
        run = self._runs[file]
        if not run.continues_at(offset):
            self._waiting -= run.write()
        run.add(content, offset)

        self._waiting += content.nbytes
        if self._waiting > _BYTES_WAITING:
            self._waiting -= sum(run.write() for run in self._runs.values())
        return True


class _Run:
    """Adjacent images of one file, which are written by one call: half the time of one call per image."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._buffers: list[memoryview] = []
        self._start = 0
        self._end = 0

    def continues_at(self, offset: int) -> bool:
        """Return whether an image at that offset can join those that wait."""
        full = self._end - self._start >= _BYTES_AT_ONCE or len(self._buffers) == _BUFFERS_AT_ONCE
        return offset == self._end and not full

    def add(self, content: memoryview, offset: int) -> None:
        """Add an image; `continues_at` was asked before."""
        if not self._buffers:
            self._start = offset
        self._buffers.append(content)
        self._end = offset + content.nbytes

    def write(self) -> int:
        """Write the images that wait, and return their number of bytes."""
        write_at(self.descriptor, self._buffers, self._start)
        written = self._end - self._start
        self._buffers = []
        self._start = self._end
        return written


def _allocate(path: str, descriptor: int, size: int) -> None:
    """Allocate the blocks of a file: faster than with each write, and a full disk is found before the work."""
    number = _fallocate(descriptor, size) if size else 0
    error = OSError(number, os.strerror(number), path)
    if is_disk_full(error):
        raise error


def _fallocate(descriptor: int, size: int) -> int:
    """Call Linux's fallocate(2) and return 0 or the errno.

    `os.posix_fallocate` will not do: it writes to every block where the file
    system (NFS, for one) has no fallocate.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)  # macOS has none
    if call is None or call(descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(size)) == 0:
        return 0
    return ctypes.get_errno()


def write_at(descriptor: int, contents: Sequence[memoryview], offset: int) -> None:
    """Write all bytes of at most 1024 buffers, one after the other, at an offset of a file."""
    left = [content.cast("B") for content in contents]
    while left:
        written = os.pwritev(descriptor, left, offset)
        offset += written
        while left and written >= left[0].nbytes:
            written -= left.pop(0).nbytes
        if left:
            left[0] = left[0][written:]
