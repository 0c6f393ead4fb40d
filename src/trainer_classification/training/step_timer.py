"""Measure training time, and the part of it in which the device was idle waiting for data."""

from __future__ import annotations

import time
from typing import Any

import torch


class StepTimer:
    """Seconds of training, and of them the seconds that the device had nothing to do, as the loop waited for a batch.

    The loop runs ahead of a GPU, until its queue is full: then asking for a batch takes long, and costs nothing.

    Args:
        device: that trains.
    """

    def __init__(self, device: torch.device) -> None:
        self.training = self.waiting = 0.0
        self._started = self._asked = 0.0
        cuda: Any = torch.cuda  # its events have no types
        self._done = cuda.Event() if device.type == "cuda" else None

    def start(self) -> None:
        """The steps begin, or go on after an evaluation."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """The steps pause: evaluation, checkpoints and tracking are not training."""
        self.training += time.perf_counter() - self._started

    def ask(self) -> None:
        """A batch is asked for."""
        self._asked = time.perf_counter()

    def got(self) -> None:
        """The batch is there."""
        if self._done is None or self._done.query():
            self.waiting += time.perf_counter() - self._asked

    def stepped(self) -> None:
        """A step is launched."""
        if self._done is not None:
            self._done.record()

    @property
    def now(self) -> float:
        """Seconds of training up to now, while the steps run."""
        return self.training + time.perf_counter() - self._started
