"""`--budget 10min`: a training planned to end after the time given, and held to it.

A few steps are timed; epochs, their length, the first image size and the batch are chosen from that. After each epoch
what is left is planned anew where the clock and the plan have come apart. A slow last epoch cannot be caught up with,
so epochs are cut short where a whole one would be more than a tenth of the time.
"""

from __future__ import annotations

import dataclasses
import gc
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer_classification.config import TrainConfig
from trainer_classification.console import duration, log
from trainer_classification.data.manifest import Manifest
from trainer_classification.outputs.tracking import NullTracker
from trainer_classification.recipes import Recipe
from trainer_classification.training.distributed import World
from trainer_classification.training.progressive import image_size
from trainer_classification.training.run import Run, build_run
from trainer_classification.training.step_times import Times, measure

_UNITS = {"": 1.0, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_CLOSING = 3.0  # seconds for report, tracker and exit
_SAVING = 0.2  # seconds for a checkpoint and an epoch's lines, until one has been measured
_EPOCHS = 10  # at least, for the plan is mended between them
_EVALUATING = 0.1  # share of the time that these many may spend in evaluation
_DRIFT = 0.01  # of the budget: planned anew from here on
_STEPS = 200  # with fewer, half a batch twice as often learns more
_SMALLEST_BATCH = 32
_FIRST_SIZE = 0.7  # of the full side, where there is not the time for the recipe's epochs


def seconds_of(text: str) -> float:
    """Seconds of "90s", "10min", "1.5h" or "600".

    Raises:
        ValueError: it is none of these, or not above zero.
    """
    match = re.fullmatch(r"\s*([\d.]+)\s*([a-z]*)\s*", text.lower())
    try:
        seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    except (KeyError, ValueError):
        seconds = 0.0
    if seconds <= 0:
        raise ValueError(f"--budget is {text!r}, but must be a time such as 90s, 10min or 1h.")
    return seconds


def checked(config: TrainConfig) -> float:
    """Seconds of the budget.

    Raises:
        ValueError: it is no time, or epochs are given as well.
    """
    if config.epochs:
        raise ValueError(f"--budget plans the epochs: leave --epochs {config.epochs} away, or --budget.")
    return seconds_of(config.budget)


@dataclass(frozen=True)
class EpochPlan:
    """What a budget came to: epochs, and steps in each."""

    epochs: int
    limit: int


Size = Callable[[int, int], int]


def scheme(left: float, times: Times, steps: int, size: Size, done: int = 0) -> EpochPlan:
    """As many whole epochs as fit, each cut by the same share so that the last step falls on the end.

    Args:
        left: seconds until the end.
        times: of steps, evaluation and finish.
        steps: of a whole epoch.
        size: (epoch, epochs) -> side in px of its images.
        done: epochs that are behind us.
    """
    working = max(0.0, left - times.finish)
    whole = _steps_seconds(20, times, size) / 20 * steps + times.evaluation
    cut_short = math.floor(min(_EPOCHS, max(1.0, _EVALUATING * working / max(times.evaluation, 1e-9))))
    more = max(1, math.ceil(working / whole), cut_short - done)
    epochs = done + more
    each = _steps_seconds(epochs, times, size, done)
    limit = math.floor((working - more * times.evaluation) / each)
    return EpochPlan(epochs, min(steps, max(1, limit)))


def _steps_seconds(epochs: int, times: Times, size: Size, done: int = 0) -> float:
    """Seconds of one step in every epoch that is left."""
    return sum(times.step(size(epoch, epochs)) for epoch in range(done, epochs))


class BudgetController:
    """Holds a run to its time: called after each epoch, before its checkpoint, so that this knows what comes.

    Args:
        budget: seconds in all.
    """

    def __init__(self, budget: float) -> None:
        self.budget, self._mark = budget, time.perf_counter()

    def __call__(self, run: Run, training: float, steps: int) -> None:
        """Plan anew what is left, where the clock says so.

        Args:
            run: at the end of an epoch.
            training: seconds of those steps of the epoch that this process took.
            steps: so many; in an epoch that was resumed not all.
        """
        state, now = run.state, time.perf_counter()
        between, self._mark = now - self._mark - training, now
        planned = EpochPlan(state.epochs, state.limit)
        spent, whole = time.time() - run.began, run.train_loader.steps

        def decide() -> tuple[EpochPlan, Times]:
            times = update_times(
                Times(*state.times), planned, state.epoch, training / steps, between, sizes(run.recipe)
            )
            return replan(planned, state.epoch, self.budget, spent, times, whole, sizes(run.recipe)), times

        found, times = run.world.broadcast_object(decide)
        state.epochs, state.limit, state.times = found.epochs, found.limit, dataclasses.astuple(times)
        if found != planned:
            log(f"Budget: planned anew, {found.epochs - state.epoch} more epochs of {found.limit} steps.")


def update_times(times: Times, planned: EpochPlan, done: int, step: float, between: float, size: Size) -> Times:
    """Times corrected by an epoch: wholly by the first, half of the way by any later one, as one is a noisy measure.

    Args:
        times: as believed so far.
        planned: as the epoch was.
        done: epochs, this one included.
        step: seconds of one of its steps.
        between: seconds of its evaluation, saving and tracking.
        size: as `scheme`.
    """
    ratio = step / times.step(size(done - 1, planned.epochs))
    scale, evaluation = (ratio, between) if done == 1 else ((1 + ratio) / 2, (times.evaluation + between) / 2)
    return Times(scale * times.fixed, scale * times.per_pixel, evaluation, times.finish)


def replan(
    planned: EpochPlan, done: int, budget: float, spent: float, times: Times, steps: int, size: Size
) -> EpochPlan:
    """The scheme for what is left: the same while it fits to a hundredth of the budget.

    Args:
        planned: so far.
        done: epochs.
        budget, spent: seconds in all, and since the command began.
        times: as believed now.
        steps: of a whole epoch.
        size: as `scheme`.
    """
    more, left = planned.epochs - done, budget - spent
    if more == 0:
        return planned
    needed = planned.limit * _steps_seconds(planned.epochs, times, size, done) + more * times.evaluation + times.finish
    return planned if abs(needed - left) <= _DRIFT * budget else scheme(left, times, steps, size, done)


def plan(
    config: TrainConfig, folder: Path, manifest: Manifest, started: float, world: World
) -> tuple[TrainConfig, EpochPlan, Times]:
    """The config with epochs, batch and first size for its budget, and the plan, which it says.

    Raises:
        ValueError: the budget is no time, or epochs are given as well.
    """
    budget = checked(config)
    trial = min(10.0, max(0.5, 0.02 * budget))
    config, recipe, steps, times = _timed(config, folder, manifest, trial, world)
    left = budget - (time.time() - started)
    batch = _batch(recipe, left / times.step(recipe.image_size))
    if batch < recipe.batch_size:
        config = _with_batch(config, recipe, batch)
        config, recipe, steps, times = _timed(config, folder, manifest, trial, world)
    left = budget - (time.time() - started)
    full = scheme(left, times, steps, lambda *_: recipe.image_size)
    if recipe.policy.crop == "resized" and config.progressive < 0 and full.epochs < recipe.epochs:
        first = max(16, round(_FIRST_SIZE * recipe.image_size / 16) * 16)
        config = dataclasses.replace(config, progressive=first)
        recipe = dataclasses.replace(recipe, progressive=first)
    found = world.broadcast_object(lambda: scheme(left, times, steps, sizes(recipe), 0))
    growing = f", {recipe.progressive} px growing to {recipe.image_size}" if recipe.progressive else ""
    log(
        f"Budget: {found.epochs} epochs of {found.limit} steps (a whole one has {steps}) of {recipe.batch_size} images"
        f"{growing}, in the {duration(max(0.0, left))} that are left of {config.budget}."
    )
    return dataclasses.replace(config, epochs=found.epochs), found, times


def as_before(config: TrainConfig, recipe: dict[str, Any]) -> TrainConfig:
    """The config as it was planned for the run that is resumed, by the recipe in its checkpoint."""
    names = ("epochs", "batch_size", "learning_rate", "progressive")
    return dataclasses.replace(config, **{name: recipe[name] for name in names})


def sizes(recipe: Recipe) -> Size:
    """(epoch, epochs) -> side in px."""
    return lambda epoch, epochs: image_size(epoch, epochs, recipe.progressive, recipe.image_size)


def _batch(recipe: Recipe, steps: float) -> int:
    """The recipe's batch, halved while the steps there is time for are few."""
    batch = recipe.batch_size
    while steps < _STEPS and batch >= 2 * _SMALLEST_BATCH:
        batch, steps = batch // 2, 2 * steps
    return batch


def _with_batch(config: TrainConfig, recipe: Recipe, batch: int) -> TrainConfig:
    """Another batch, and the learning rate in proportion (Goyal et al., arXiv 1706.02677)."""
    rate = recipe.learning_rate * batch / recipe.batch_size
    return dataclasses.replace(config, batch_size=batch, learning_rate=rate)


def _timed(
    config: TrainConfig, folder: Path, manifest: Manifest, seconds: float, world: World
) -> tuple[TrainConfig, Recipe, int, Times]:
    """Times of a throw-away run, with the batch halved until it fits the memory."""
    while True:
        run = build_run(config, folder, manifest, NullTracker(), world)
        recipe, steps = run.recipe, run.train_loader.steps
        try:
            return config, recipe, steps, _times(run, seconds)
        except torch.OutOfMemoryError:
            if world.size > 1:  # the others wait in the step for this one
                raise ValueError(
                    f"A batch of {recipe.batch_size} does not fit the memory of GPU {world.local_rank}: give a smaller "
                    "--batch-size, or --accumulate 2."
                ) from None
            if recipe.batch_size < 2 * _SMALLEST_BATCH:
                raise
            config = _with_batch(config, recipe, recipe.batch_size // 2)
            log(f"A batch of {recipe.batch_size} does not fit the memory: trying {config.batch_size}.")
        finally:
            run.close()
            del run
            gc.collect()
            torch.cuda.empty_cache() if torch.cuda.is_available() else None


def _times(run: Run, seconds: float) -> Times:
    """Times at the first size and at the full one, where they differ, and of evaluation from a batch's forward."""
    recipe = run.recipe
    small = run.image_size
    first, _ = measure(run, seconds)
    full, batch = first, 0.0
    if small != recipe.image_size:
        run.train_loader.close()
        run.train_loader = run.open_train(recipe.image_size)[0]
        full, batch = measure(run, seconds)
    else:
        batch = measure(run, 0)[1]
    area = recipe.image_size**2 - small**2
    # Without a second size: the step is all pixels, as convolutions are.
    slope = max(0.0, (full - first) / area) if area else full / recipe.image_size**2
    batches = {name: -(-info.count // recipe.batch_size) for name, info in run.manifest.splits.items()}
    found = Times(
        max(0.0, full - slope * recipe.image_size**2),
        slope,
        _SAVING + batch * batches.get("validation", 0),
        _CLOSING + batch * batches.get("test", 0),
    )
    return run.world.broadcast_object(lambda: found)
