"""Fetch the images of a split in object storage, in the order of an epoch and ahead of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer_classification.arrays import Bool, Int64
from trainer_classification.data.mirror import open_mirror
from trainer_classification.data.sparse_file import SparseFile, require

_EXACT_BATCHES = 1  # of an epoch, of which no more is fetched than they need
_AHEAD = 64  # images that are asked for together, ahead of the loop
_ROWS_AT_ONCE = 1 << 20  # images


@dataclass(frozen=True)
class RemoteImages:
    """Where the images of a split lie in the files of a mirror.

    Attributes:
        files: that hold them.
        file: int64 [n], which of `files` an image is in.
        offsets, sizes: int64 [n], in that file, in bytes.
    """

    files: list[SparseFile]
    file: Int64
    offsets: Int64
    sizes: Int64

    @property
    def is_complete(self) -> bool:
        """Whether all blocks of all files are here."""
        return all(file.is_complete for file in self.files)

    def require(self, index: Int64) -> None:
        """Wait until the images of a batch are here.

        Args:
            index: int64 [B], sample ids; -1 in padding rows.

        Raises:
            ValueError: one cannot be fetched, or is not what was prepared.
        """
        require(list(self._find_blocks(index)))

    @contextmanager
    def fetch_ahead(self, own: Int64, local: Int64) -> Iterator[None]:
        """Fetch the images of an epoch in the background, in its order, until the context ends.

        Args:
            own: int64 [steps, B], sample ids of each batch of this process; -1 in
                padding rows.
            local: int64, those of all processes of this machine, in any shape.
        """
        for file, wanted in zip(self.files, self._list_wanted(local.ravel()), strict=True):
            file.wanted = wanted
        for index in own[:_EXACT_BATCHES]:
            self._begin(index, is_exact=True)
        is_over = threading.Event()
        arguments = (own[_EXACT_BATCHES:], is_over)
        thread = threading.Thread(
            target=self._fetch_batches, args=arguments, name="fetch ahead", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
            for file in self.files:
                file.wanted = None

    def _fetch_batches(self, batches: Int64, is_over: threading.Event) -> None:
        waiting: list[Future[None]] = []
        for index in batches:
            for start in range(0, len(index), _AHEAD):
                if is_over.is_set():
                    return
                begun = self._begin(index[start : start + _AHEAD])
                for future in waiting:
                    future.exception()  # `require` tries again and raises it
                waiting = begun

    def _begin(self, index: Int64, is_exact: bool = False) -> list[Future[None]]:
        parts = self._find_blocks(index)
        return [future for file, blocks in parts for future in file.begin(blocks, is_exact)]

    def _find_blocks(self, index: Int64) -> Iterator[tuple[SparseFile, Int64]]:
        """Yield the files that hold some images, and the blocks of each, ascending."""
        index = index[index >= 0]
        for number in np.unique(self.file[index]).tolist():
            rows = index[self.file[index] == number]
            file = self.files[number]
            yield file, self._list_blocks(rows, file.block)

    def _list_blocks(self, rows: Int64, block: int) -> Int64:
        """Return the blocks of some images in one file, ascending, each once."""
        first = self.offsets[rows] // block
        counts = (self.offsets[rows] + self.sizes[rows] - 1) // block - first + 1
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.unique(np.repeat(first, counts) + within)

    def _list_wanted(self, index: Int64) -> list[Bool]:
        """Return which blocks of each file hold some of these images."""
        block_bytes = np.array([file.block for file in self.files])
        ends = np.cumsum([len(file) for file in self.files])
        bases = np.concatenate([[0], ends[:-1]])
        # Of all blocks of all files, how many images begin there, less those that ended before.
        changes = np.zeros(ends[-1] + 1, np.int64)
        for start in range(0, len(index), _ROWS_AT_ONCE):
            rows = index[start : start + _ROWS_AT_ONCE]
            rows = rows[rows >= 0]
            number = self.file[rows]
            first = self.offsets[rows] // block_bytes[number]
            last = (self.offsets[rows] + self.sizes[rows] - 1) // block_bytes[number]
            np.add.at(changes, bases[number] + first, 1)
            np.subtract.at(changes, bases[number] + last + 1, 1)
        return np.split(np.cumsum(changes[:-1]) > 0, ends[:-1])


def open_images(
    folder: Path, files: Mapping[str, int], file: Int64, offsets: Int64, sizes: Int64
) -> RemoteImages:
    """Return where the images of a split lie in a mirror, to fetch them on demand.

    Args:
        folder: of the mirror.
        files: bytes by name.
        file: int64 [n], which of `files` an image is in.
        offsets: int64 [n], in that file.
        sizes: int64 [n], in bytes.
    """
    mirror = open_mirror(folder)
    opened = [mirror.file(name, size) for name, size in files.items()]
    return RemoteImages(opened, file, offsets, sizes)
