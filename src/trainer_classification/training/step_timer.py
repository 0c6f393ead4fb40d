"""Measure training time, and the part of it in which the device was idle waiting for data."""

from __future__ import annotations

import time
from typing import Any

import torch


class StepTimer:
    """Time the steps of an epoch, and the part in which the device waited for a batch.

    The loop runs ahead of a GPU until its queue is full. Requesting a batch then
    takes long without costing anything, so waiting only counts while the device
    has nothing left to do.

    Attributes:
        training: seconds between `start` and `stop`.
        waiting: those of them in which the device waited for data.

    Args:
        device: that trains.
    """

    def __init__(self, device: torch.device) -> None:
        self.training = 0.0
        self.waiting = 0.0
        self._started = 0.0
        self._requested = 0.0
        cuda: Any = torch.cuda  # its events have no types
        self._last_step = cuda.Event() if device.type == "cuda" else None

    def start(self) -> None:
        """Start, or continue after a pause."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """Pause: evaluation, checkpoints and tracking are not training."""
        self.training += time.perf_counter() - self._started

    def request_batch(self) -> None:
        """Note that the loop requests a batch."""
        self._requested = time.perf_counter()

    def receive_batch(self) -> None:
        """Note that the batch has arrived; count the wait if the device is idle."""
        if self._last_step is None or self._last_step.query():
            self.waiting += time.perf_counter() - self._requested

    def record_step(self) -> None:
        """Note that a step was launched."""
        if self._last_step is not None:
            self._last_step.record()

    @property
    def elapsed(self) -> float:
        """Seconds of training so far, while the steps run."""
        return self.training + time.perf_counter() - self._started
