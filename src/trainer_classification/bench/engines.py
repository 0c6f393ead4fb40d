"""This package's own loaders as contestants."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from trainer_classification.bench.delivery import Delivery, Int64
from trainer_classification.bench.workload import Workload
from trainer_classification.loaders.select import open_loader

_READS = {"resident": "array", "ffcv": "beton", "dali": "tar"}  # torch: the original files


class Engine:
    """A loader behind `open_loader`, by name."""

    def __init__(self, loader: str, workload: Workload) -> None:
        folder = Path(workload.prepared)
        self.loader, self.placement = open_loader(
            folder,
            workload.manifest,
            "train",
            loader=loader,
            plan=workload.plan,
            batch_size=workload.batch_size,
            image_size=workload.image_size,
            device=workload.where,
            threads=workload.threads,
        )
        self.files = shards_of(loader, workload)

    def epoch(self, number: int) -> Iterator[Delivery]:
        """The planned batches."""
        for batch in self.loader.epoch(number):
            yield Delivery(batch.count, batch.images, batch.labels, batch.index)

    def planned(self, number: int) -> Int64:
        """As the plan says."""
        return np.concatenate([index for index, _ in self.loader.share.batches(number)])

    def close(self) -> None:
        """Close the loader."""
        self.loader.close()


def shards_of(loader: str, workload: Workload) -> list[str]:
    """The files that a loader reads for training."""
    kind, folder = _READS.get(loader), Path(workload.prepared)
    shards = [str(folder / name) for name in workload.manifest.files if kind and name.startswith(f"{kind}/train")]
    return shards or workload.files


resident, ffcv, dali, torch = (partial(Engine, name) for name in ("resident", "ffcv", "dali", "torch"))
