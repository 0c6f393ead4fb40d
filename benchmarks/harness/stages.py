"""The rungs of the ladder that are no loader: reading the stored bytes, and augmenting cached images."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from harness import step_timing as steps
from harness.delivery import Delivery
from harness.own_loaders import shards_of
from harness.vendor_defaults import OwnOrder
from harness.workload import Workload
from trainer_classification.data.array import open_array
from trainer_classification.plan import identity

_BLOCK = 1 << 20  # bytes
_CACHED = 64  # images: of 160 px, they fit in the caches of a core
_BATCHES = 16  # of them in an epoch


class Read(OwnOrder):
    """Reads what a loader has stored, from the page cache, front to back in all threads."""

    def __init__(self, loader: str, workload: Workload) -> None:
        self.files, self.count = shards_of(loader, workload), workload.count
        self._pool = ThreadPoolExecutor(workload.threads)

    def epoch(self, number: int) -> Iterator[Delivery]:
        """All bytes once."""
        pieces = [(path, start) for path in self.files for start in range(0, Path(path).stat().st_size, 64 * _BLOCK)]
        list(self._pool.map(_read, pieces))
        yield Delivery(self.count)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


def _read(piece: tuple[str, int]) -> None:
    path, start = piece
    block = bytearray(_BLOCK)
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        for _ in range(64):
            if not file.readinto(block):
                return


class Augment(OwnOrder):
    """The kernels of the resident loader over a few cached images."""

    def __init__(self, workload: Workload) -> None:
        from trainer_classification.augment.cpu import augment

        self.files: list[str] = []
        self.workload, self._augment = workload, augment
        self._pool = ThreadPoolExecutor(workload.threads)
        store = open_array(Path(workload.prepared), workload.manifest, "train")
        rows = min(_CACHED, workload.count)
        self.images, self.layout = np.array(store.images[:rows]), store.layout
        draws, every = workload.plan.draws(0), np.arange(rows)
        self.draws = draws[every] if workload.count > rows else identity(rows)
        shape = (workload.threads, rows, workload.image_size, workload.image_size, self.images.shape[3])
        self.index, self.targets = every, np.empty(shape, np.uint8)

    def epoch(self, number: int) -> Iterator[Delivery]:
        """Every thread augments the cached images several times."""
        list(self._pool.map(self._work, self.targets))
        yield Delivery(_BATCHES * len(self.index) * len(self.targets))

    def _work(self, target: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
        for _ in range(_BATCHES):
            self._augment(
                self.images,
                self.index,
                self.draws,
                self.workload.policy,
                self.workload.image_size,
                self.layout,
                target,
            )

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


read_resident, read_ffcv, read_dali, read_torch = (
    partial(Read, name) for name in ("resident", "ffcv", "dali", "torch")
)
full_resident, full_ffcv, full_dali, full_torch = (
    partial(steps.full, name) for name in ("resident", "ffcv", "dali", "torch")
)
augment, step = Augment, steps.cached
