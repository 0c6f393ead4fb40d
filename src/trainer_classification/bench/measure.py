"""How loaders are timed: whole epochs, first batch apart, each epoch's samples checked."""

from __future__ import annotations

import os
import platform
import statistics
import time
from typing import Any

import numpy as np
import torch

from trainer_classification.config import cpu_count
from trainer_classification.loaders.base import Loader

_EPOCHS = 5


def measure(loader: Loader, seconds: float) -> dict[str, Any]:
    """Time epochs after one warm-up epoch until both `seconds` and five epochs have passed.

    Every epoch is checked against the plan: exactly the planned samples, in order, with nothing left out. The check is
    outside the timed part.

    Returns:
        first_batch_seconds; images_per_second (median over epochs), low and high (least and most); epochs;
        cpu_seconds_per_1k images.

    Raises:
        AssertionError: an epoch was not the planned one.
    """
    started = time.perf_counter()
    next(loader.epoch(0))
    first = time.perf_counter() - started
    _epoch(loader, 0)
    rates: list[float] = []
    total, images = time.perf_counter(), 0
    cpu = time.process_time()
    while len(rates) < _EPOCHS or time.perf_counter() - total < seconds:
        count, took = _epoch(loader, len(rates) + 1)
        rates.append(count / took)
        images += count
    return {
        "first_batch_seconds": first,
        "images_per_second": statistics.median(rates),
        "low": min(rates),
        "high": max(rates),
        "epochs": len(rates),
        "cpu_seconds_per_1k": (time.process_time() - cpu) / images * 1000,
    }


def _epoch(loader: Loader, epoch: int) -> tuple[int, float]:
    """Images and seconds of an epoch, timed from asking for it to its last batch."""
    started = time.perf_counter()
    seen = [batch.index.clone() for batch in loader.epoch(epoch)]
    if seen[-1].is_cuda:
        torch.cuda.synchronize()
    took = time.perf_counter() - started
    delivered = torch.cat(seen).cpu().numpy()
    planned = np.concatenate([index for index, _ in loader.share.batches(epoch)])
    assert np.array_equal(delivered, planned), f"epoch {epoch} is not the planned one"
    return len(delivered), took


def provenance(threads: int) -> dict[str, Any]:
    """Where and with what a figure was measured."""
    model = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), "")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": f"{model or platform.machine()}, {cpu_count()} cores",
        "threads": threads or cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "torch": torch.__version__,
        "numpy": np.__version__,
        "load_average": round(os.getloadavg()[0], 2),
    }


def _cpuinfo() -> list[str]:
    try:
        with open("/proc/cpuinfo") as file:
            return file.read().splitlines()
    except OSError:
        return []
