"""How long the steps of a run take on this machine, tried on a few of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch

from trainer_classification.loaders.base import Batch, Loader
from trainer_classification.training.cuda_graph import WARM_STEPS
from trainer_classification.training.run import Run

_WARM_STEPS = WARM_STEPS + 2  # tuning, compilation, first allocations; recording, and the first step played back


@dataclass(frozen=True)
class Times:
    """Seconds of a step by the area of its images, of an evaluation, and of the end of a run.

    Attributes:
        fixed, per_pixel: of a step, as `fixed + per_pixel * side ** 2`.
        evaluation: after each epoch, with saving.
        finish: test, report and goodbye.
    """

    fixed: float
    per_pixel: float
    evaluation: float
    finish: float

    def step(self, side: int) -> float:
        """Of a step with images of this side in px."""
        return self.fixed + self.per_pixel * side**2


def measure(run: Run, seconds: float) -> tuple[float, float]:
    """(seconds a step, seconds an evaluated batch) at the size of the run's loader; changes the run's weights.

    Loading is included, as it is in training. Takes the time asked for and that of the first steps.
    """
    batches = _endless(run.train_loader)
    for step in range(_WARM_STEPS):
        run.step(next(batches), step, run.totals)
    _wait(run.device)
    started, steps = time.perf_counter(), 0
    while steps < 2 or run.world.broadcast_object(lambda: time.perf_counter() - started < seconds):
        run.step(next(batches), steps, run.totals)
        steps += 1
        _wait(run.device) if steps % 8 == 0 else None
    _wait(run.device)
    return (time.perf_counter() - started) / steps, _evaluation(run, next(batches))


def _endless(loader: Loader) -> Iterator[Batch]:
    for epoch in count():
        yield from loader.epoch(epoch)


@torch.inference_mode()
def _evaluation(run: Run, batch: Batch) -> float:
    """Seconds that the kept model takes for a batch of training size."""
    model = run.evaluated.eval()
    images = run.normalize(batch.images)
    with torch.autocast(run.device.type, run.dtype, enabled=run.dtype is not None):
        model(images)
        _wait(run.device)
        started = time.perf_counter()
        for _ in range(3):
            model(images)
        _wait(run.device)
    run.step.model.train()
    return (time.perf_counter() - started) / 3


def _wait(device: torch.device) -> None:
    torch.cuda.synchronize(device) if device.type == "cuda" else None
