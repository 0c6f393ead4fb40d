"""The stages of a loader that are measured alone: reading the stored bytes, and augmenting cached images."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from harness.delivery import Delivery
from harness.own_loaders import list_shards
from harness.vendor_defaults import SelfShuffling
from harness.workload import Workload
from trainer_classification.data.array import open_array
from trainer_classification.plan import identity

_BLOCK = 1 << 20  # bytes of one read
_BLOCKS = 64  # blocks of one task
_CACHED_IMAGES = 64  # at 160 px these fit in the caches of a core
_ROUNDS = 16  # times that an epoch augments the cached images


class Read(SelfShuffling):
    """Read what a loader has stored, from the page cache, front to back in all threads."""

    def __init__(self, engine: str, workload: Workload) -> None:
        self.files = list_shards(engine, workload)
        self.count = workload.count
        self._pool = ThreadPoolExecutor(workload.threads)

    def epoch(self, number: int) -> Iterator[Delivery]:
        """Read all bytes once."""
        piece = _BLOCKS * _BLOCK
        pieces = [
            (path, start)
            for path in self.files
            for start in range(0, Path(path).stat().st_size, piece)
        ]
        list(self._pool.map(_read_piece, pieces))
        yield Delivery(self.count)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


def _read_piece(piece: tuple[str, int]) -> None:
    path, start = piece
    block = bytearray(_BLOCK)
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        for _ in range(_BLOCKS):
            if not file.readinto(block):
                return


class Augment(SelfShuffling):
    """Run the kernels of the resident loader over a few cached images."""

    def __init__(self, workload: Workload) -> None:
        from trainer_classification.augment.cpu import augment

        self.files: list[str] = []
        self.workload = workload
        self._augment = augment
        self._pool = ThreadPoolExecutor(workload.threads)

        store = open_array(Path(workload.prepared), workload.manifest, "train")
        rows = min(_CACHED_IMAGES, workload.count)
        self.index = np.arange(rows)
        self.images = np.array(store.images[:rows])
        self.layout = store.layout
        self.draws = workload.plan.draws(0)[self.index] if workload.count > rows else identity(rows)
        shape = (
            workload.threads,
            rows,
            workload.image_size,
            workload.image_size,
            self.images.shape[3],
        )
        self.targets = np.empty(shape, np.uint8)

    def epoch(self, number: int) -> Iterator[Delivery]:
        """Augment the cached images several times in every thread."""
        list(self._pool.map(self._augment_rounds, self.targets))
        yield Delivery(_ROUNDS * len(self.index) * len(self.targets))

    def _augment_rounds(self, target: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
        policy = self.workload.policy
        size = self.workload.image_size
        for _ in range(_ROUNDS):
            self._augment(self.images, self.index, self.draws, policy, size, self.layout, target)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
