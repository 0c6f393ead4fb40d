"""Time a few steps of a run on this machine, and estimate the rest of it from them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch

from trainer_classification.loaders.base import Batch, Loader
from trainer_classification.training.cuda_graph import WARMUP_STEPS
from trainer_classification.training.setup import Setup
from trainer_classification.training.state import State

CLOSING_SECONDS = 3.0  # report, tracker and exit

# Tuning, compilation, first allocations; then recording, and the first step that
# is replayed.
_WARMUP_STEPS = WARMUP_STEPS + 2
_STEPS_BETWEEN_SYNCS = 8
_EVALUATED_BATCHES = 3


@dataclass(frozen=True)
class Times:
    """Seconds that the parts of a run take.

    Attributes:
        fixed: of a step, independent of the size of its images.
        per_pixel: of a step, for each pixel of an image: it takes `fixed +
            per_pixel * side ** 2`.
        evaluation: after each epoch, saving included.
        finish: of test, report and exit.
    """

    fixed: float
    per_pixel: float
    evaluation: float
    finish: float

    def step(self, side: int) -> float:
        """Return the seconds of a step with images of this side in px."""
        return self.fixed + self.per_pixel * side**2


def measure(setup: Setup, state: State, seconds: float) -> tuple[float, float]:
    """Time steps and an evaluated batch at the size of the training loader; this changes the weights.

    Args:
        setup: of the run.
        state: has the training loader.
        seconds: for timed steps; the steps before them come on top.

    Returns:
        Seconds for a step, loading included, and for an evaluated batch, without
        loading.
    """
    batches = _repeat_epochs(state.train_loader)
    for number in range(_WARMUP_STEPS):
        setup.step(next(batches), number, state.metrics)
        state.idle_threads()
    _synchronize(setup.device)

    started = time.perf_counter()
    steps = 0
    while steps < 2 or setup.world.broadcast_object(
        lambda: time.perf_counter() - started < seconds
    ):
        setup.step(next(batches), steps, state.metrics)
        state.idle_threads()
        steps += 1
        if steps % _STEPS_BETWEEN_SYNCS == 0:
            _synchronize(setup.device)
    _synchronize(setup.device)
    seconds_per_step = (time.perf_counter() - started) / steps

    return seconds_per_step, _time_evaluation(setup, next(batches))


def estimate_evaluation(setup: Setup, seconds_per_batch: float) -> tuple[float, float]:
    """Return the seconds of one evaluation on the validation split, and of all those that end a run.

    At the end, all ranks evaluate test, and rank 0 alone collects the logits of
    every split but train.
    """
    seconds = {
        name: seconds_per_batch * -(-split.count // setup.recipe.batch_size)
        for name, split in setup.manifest.splits.items()
        if name != "train"
    }
    alone = setup.world.size * sum(seconds.values())

    return seconds.get("validation", 0.0), seconds.get("test", 0.0) + alone


def _repeat_epochs(loader: Loader) -> Iterator[Batch]:
    for epoch in count():
        yield from loader.epoch(epoch)


@torch.inference_mode()
def _time_evaluation(setup: Setup, batch: Batch) -> float:
    """Return the seconds that the evaluated model takes for a batch of training size."""
    model = setup.step.kept_model.eval()
    images = setup.normalize(batch.images)
    with torch.autocast(setup.device.type, setup.dtype, enabled=setup.dtype is not None):
        model(images)
        _synchronize(setup.device)
        started = time.perf_counter()
        for _ in range(_EVALUATED_BATCHES):
            model(images)
        _synchronize(setup.device)
    setup.step.model.train()

    return (time.perf_counter() - started) / _EVALUATED_BATCHES


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
