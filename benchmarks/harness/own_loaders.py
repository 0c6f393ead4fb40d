"""This package's own loaders as contestants."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from harness.delivery import Delivery, Int64
from harness.workload import Workload
from trainer_classification.data.beton import open_beton
from trainer_classification.loaders.base import BatchSchedule, Loader, LoaderRequest
from trainer_classification.loaders.registry import choose_engine, open_loader

_READS = {"resident": "array", "ffcv": "beton"}  # torch: the original files


class Engine:
    """A loader behind `open_loader`, by name."""

    loader: Loader

    def __init__(self, loader: str, workload: Workload) -> None:
        manifest = workload.manifest
        array_bytes = workload.count * manifest.image_size**2 * manifest.channels
        choice = choose_engine(loader, array_bytes, workload.where, manifest.resized)
        self.placement = choice.reason
        self.loader = open_loader(
            choice,
            LoaderRequest(
                Path(workload.prepared),
                manifest,
                "train",
                plan=workload.plan,
                batch_size=workload.batch_size,
                image_size=workload.image_size,
                device=workload.where,
                threads=workload.threads,
            ),
        )
        self.files = shards_of(loader, workload)

    def epoch(self, number: int) -> Iterator[Delivery]:
        """The planned batches."""
        for batch in self.loader.epoch(number):
            yield Delivery(batch.count, batch.images, batch.labels, batch.index)

    def planned(self, number: int) -> Int64:
        """As the plan says."""
        return np.concatenate([index for index, _ in self.loader.schedule.batches(number)])

    def close(self) -> None:
        """Close the loader."""
        self.loader.close()


def shards_of(loader: str, workload: Workload) -> list[str]:
    """The files that a loader reads for training."""
    kind, folder = _READS.get(loader), Path(workload.prepared)
    if loader == "dali":
        kind = "tar" if workload.manifest.resized else "array"
    shards = [str(folder / name) for name in workload.manifest.files if kind and name.startswith(f"{kind}/train")]
    return shards or workload.files


class StockBeton(Engine):
    """Our ffcv loader over the beton that FFCV's DatasetWriter wrote for the stock row: the same bytes for both."""

    def __init__(self, name: str, workload: Workload) -> None:
        from trainer_classification.loaders.ffcv import FfcvLoader

        path = workload.folder(name) / "train.beton"
        share = BatchSchedule(workload.plan, workload.count, workload.batch_size)
        store, where = open_beton(path), workload.where
        options = workload.image_size, workload.manifest.channels, not workload.manifest.resized
        self.loader = FfcvLoader(store, workload.files, share, *options, where, workload.threads)
        self.placement, self.files = "over the stock beton", [str(path)]


resident, ffcv, dali, torch = (partial(Engine, name) for name in ("resident", "ffcv", "dali", "torch"))
ffcv_on_raw, ffcv_on_jpg = (partial(StockBeton, f"ffcv-stock-{mode}") for mode in ("raw", "jpg"))
