"""This package's own loaders as candidates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from harness import engines
from harness.delivery import Delivery, Int64
from harness.workload import Workload
from trainer_classification.data.beton import open_beton
from trainer_classification.loaders.base import BatchSchedule, Loader, LoaderRequest


class Engine:
    """Deliver the planned batches of one engine.

    Args:
        name: name of the engine.
        workload: what to deliver.
    """

    loader: Loader
    files: list[str]

    def __init__(self, name: str, workload: Workload) -> None:
        request = LoaderRequest(
            folder=Path(workload.prepared),
            manifest=workload.manifest,
            split="train",
            plan=workload.plan,
            batch_size=workload.batch_size,
            image_size=workload.image_size,
            device=workload.torch_device,
            threads=workload.threads,
        )
        self.loader = engines.open_engine(name, request)
        self.files = list_shards(name, workload)

    def epoch(self, number: int) -> Iterator[Delivery]:
        """Yield the planned batches."""
        for batch in self.loader.epoch(number):
            yield Delivery(batch.count, batch.images, batch.labels, batch.index)

    def planned(self, number: int) -> Int64:
        """Return the sample ids of an epoch in their planned order."""
        return np.concatenate([index for index, _ in self.loader.schedule.batches(number)])

    def close(self) -> None:
        """Close the loader."""
        self.loader.close()


def list_shards(engine: str, workload: Workload) -> list[str]:
    """Return the files that an engine reads for training."""
    folder = Path(workload.prepared)
    prefixes = tuple(f"{name}/train" for name in engines.formats(engine, workload.manifest.resized))
    shards = [str(folder / name) for name in workload.manifest.files if name.startswith(prefixes)]
    return shards or workload.files


class FfcvOverVendorBeton(Engine):
    """Deliver from the beton that FFCV's DatasetWriter wrote for the vendor's row: both read the same bytes.

    Args:
        name: the vendor's row.
        workload: what to deliver.
    """

    def __init__(self, name: str, workload: Workload) -> None:
        from trainer_classification.loaders.ffcv import BetonSplit, FfcvLoader

        path = workload.folder(name) / "train.beton"
        manifest = workload.manifest
        schedule = BatchSchedule(workload.plan, workload.count, workload.batch_size)
        split = BetonSplit(
            open_beton(path), workload.files, manifest.channels, fixed_size=not manifest.resized
        )
        self.loader = FfcvLoader(
            split, schedule, workload.image_size, workload.torch_device, workload.threads
        )
        self.files = [str(path)]
