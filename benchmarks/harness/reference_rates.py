"""What no loader on this machine can exceed: copying the batch, decoding the JPEGs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.delivery import Delivery, Int64
from harness.vendor_defaults import OwnOrder
from harness.workload import Workload
from trainer_classification.data.beton import JPEG, open_beton

_SOURCE = 256 << 20  # bytes to copy from: more than any cache holds
_CHUNK = 32  # images a thread decodes at once


class Copy(OwnOrder):
    """Copies finished batches to where they are trained on: all that is left of a loader that does nothing else."""

    def __init__(self, workload: Workload) -> None:
        from harness.own_loaders import Engine

        self.files: list[str] = []
        self.workload, self.rows = workload, workload.batch_size
        torch.set_num_threads(workload.threads)
        engine = Engine("resident", workload)
        batches = [(batch.images.cpu().clone(), batch.labels.cpu().clone()) for batch in engine.loader.epoch(0)]
        engine.close()
        each = batches[0][0].nbytes
        self.batches = batches[: max(1, _SOURCE // each)]
        pinned = workload.where.type == "cuda"
        self.batches = [(i.pin_memory(), labels) for i, labels in self.batches] if pinned else self.batches
        self.target = torch.empty_like(batches[0][0], device=workload.where)
        self.labels = [labels for _, labels in batches]

    def epoch(self, number: int) -> Iterator[Delivery]:
        """As many batches as an epoch has."""
        for step, labels in enumerate(self.labels):
            self.target.copy_(self.batches[step % len(self.batches)][0], non_blocking=True)
            yield Delivery(len(labels))


class Decode(OwnOrder):
    """Decodes JPEGs from memory by libjpeg-turbo, all threads, and drops the pixels."""

    def __init__(self, files: list[str], images: Sequence[Any], threads: int) -> None:
        self.files, self.images = files, images
        self._pool = ThreadPoolExecutor(threads)

    def epoch(self, number: int) -> Iterator[Delivery]:
        """Every image once."""
        chunks = [self.images[start : start + _CHUNK] for start in range(0, len(self.images), _CHUNK)]
        for count in self._pool.map(_decoded, chunks):
            yield Delivery(count)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


def _decoded(images: Sequence[Any]) -> int:
    import simplejpeg

    for image in images:
        simplejpeg.decode_jpeg(image, "RGB")
    return len(images)


copy = Copy


def decode_originals(workload: Workload) -> Decode:
    """The original files: what dali, torch and the peers decode."""
    images = [Path(path).read_bytes() for path in workload.files if path.lower().endswith((".jpg", ".jpeg"))]
    return Decode(workload.files, images, workload.threads)


def decode_beton(workload: Workload) -> Decode:
    """The JPEGs of this package's beton: what its ffcv loader decodes."""
    path = next(name for name in workload.manifest.files if name.startswith("beton/train"))
    store = open_beton(Path(workload.prepared) / path)
    rows: Int64 = np.flatnonzero(store.modes == JPEG)
    images = [store.data[int(store.places[r]) : int(store.places[r] + store.sizes[r])].tobytes() for r in rows]
    return Decode([str(Path(workload.prepared) / path)], images, workload.threads)
