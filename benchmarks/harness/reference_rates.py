"""Rates to compare loaders with: copying finished batches, and decoding every JPEG whole.

Copying is a bound, since every loader writes its batches. Full decoding is none,
since a loader may decode only the drawn box, or at a reduced scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.delivery import Delivery, Int64
from harness.vendor_defaults import SelfShuffling
from harness.workload import Workload
from trainer_classification.data.beton import JPEG, open_beton

_SOURCE_BYTES = 256 << 20  # copied from: more than any cache holds
_CHUNK = 32  # images that a thread decodes in one task


class Copy(SelfShuffling):
    """Copy finished batches to where they are trained on, and do nothing else."""

    def __init__(self, workload: Workload) -> None:
        from harness.own_loaders import Engine

        self.files: list[str] = []
        torch.set_num_threads(workload.threads)

        engine = Engine("resident", workload)
        batches = [
            (batch.images.cpu().clone(), batch.labels.cpu().clone())
            for batch in engine.loader.epoch(0)
        ]
        engine.close()

        first = batches[0][0]
        sources = [images for images, _ in batches[: max(1, _SOURCE_BYTES // first.nbytes)]]
        on_gpu = workload.torch_device.type == "cuda"
        self.sources = [images.pin_memory() for images in sources] if on_gpu else sources
        self.target = torch.empty_like(first, device=workload.torch_device)
        self.labels = [labels for _, labels in batches]

    def epoch(self, number: int) -> Iterator[Delivery]:
        """Copy as many batches as an epoch has."""
        for step, labels in enumerate(self.labels):
            self.target.copy_(self.sources[step % len(self.sources)], non_blocking=True)
            yield Delivery(len(labels))


class Decode(SelfShuffling):
    """Decode JPEGs from memory with libjpeg-turbo in all threads, and discard the pixels.

    Args:
        files: where the JPEGs are stored.
        images: the bytes of each.
        threads: threads that decode.
    """

    def __init__(self, files: list[str], images: Sequence[Any], threads: int) -> None:
        self.files = files
        self.images = images
        self._pool = ThreadPoolExecutor(threads)

    def epoch(self, number: int) -> Iterator[Delivery]:
        """Decode every image once."""
        chunks = [
            self.images[start : start + _CHUNK] for start in range(0, len(self.images), _CHUNK)
        ]
        for count in self._pool.map(_decode_chunk, chunks):
            yield Delivery(count)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


def _decode_chunk(images: Sequence[Any]) -> int:
    """Decode some images and return their number."""
    import simplejpeg

    for image in images:
        simplejpeg.decode_jpeg(image, "RGB")
    return len(images)


def decode_originals(workload: Workload) -> Decode:
    """Decode the original files, as dali, torch and the other libraries do."""
    images = [
        Path(path).read_bytes()
        for path in workload.files
        if path.lower().endswith((".jpg", ".jpeg"))
    ]
    return Decode(workload.files, images, workload.threads)


def decode_beton(workload: Workload) -> Decode:
    """Decode the JPEGs of this package's beton, as its ffcv loader does."""
    name = next(name for name in workload.manifest.files if name.startswith("beton/train"))
    path = Path(workload.prepared) / name
    store = open_beton(path)
    rows: Int64 = np.flatnonzero(store.modes == JPEG)
    images = [
        store.data[int(store.places[r]) : int(store.places[r] + store.sizes[r])].tobytes()
        for r in rows
    ]
    return Decode([str(path)], images, workload.threads)
