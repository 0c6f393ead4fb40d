"""`--budget 10min`: plan a training that ends after the given time, and keep it to the plan.

After each epoch, what is left is planned again if clock and plan have drifted
apart. A last epoch that is too slow cannot be made up for, so epochs are cut
short where a whole one would take more than a tenth of the time.
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from trainer_classification.config import TrainConfig
from trainer_classification.console import log
from trainer_classification.recipes import Recipe
from trainer_classification.training.progressive import image_size
from trainer_classification.training.setup import Setup
from trainer_classification.training.state import State
from trainer_classification.training.step_times import Times

_UNITS = {"": 1.0, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_MIN_EPOCHS = 10  # the plan is only corrected between epochs
_EVALUATION_FRACTION = 0.1  # of the time, which the evaluations of that many epochs may take
_DRIFT = 0.01  # of the budget, from which on the rest is planned again


def parse_seconds(text: str) -> float:
    """Return the seconds of "90s", "10min", "1.5h" or "600".

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


def has_budget(config: TrainConfig) -> bool:
    """Return True if a budget plans the run; a dry run has none."""
    return bool(config.budget) and not config.stop_early


@dataclass(frozen=True)
class EpochPlan:
    """What a budget came to.

    Attributes:
        epochs: of the run.
        steps: in each of them.
    """

    epochs: int
    steps: int


SizeSchedule = Callable[[int, int], int]  # (epoch, epochs) -> side of its images in px


@dataclass(frozen=True)
class EpochShape:
    """What a whole epoch consists of.

    Attributes:
        steps: its number.
        sizes: of the images.
    """

    steps: int
    sizes: SizeSchedule


@dataclass(frozen=True)
class BudgetClock:
    """The time of a run.

    Attributes:
        budget: seconds in total.
        spent: seconds since the command started.
    """

    budget: float
    spent: float

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return self.budget - self.spent


@dataclass(frozen=True)
class MeasuredEpoch:
    """What an epoch took.

    Attributes:
        number: from 1.
        step: seconds of one of its steps.
        between: seconds of its evaluation, saving and tracking.
    """

    number: int
    step: float
    between: float


def size_schedule(recipe: Recipe) -> SizeSchedule:
    """Return the sizes of a recipe's images as a function of epoch and epochs."""
    return lambda epoch, epochs: image_size(epoch, epochs, recipe.progressive, recipe.image_size)


def plan_epochs(
    seconds_left: float, times: Times, shape: EpochShape, epochs_done: int = 0
) -> EpochPlan:
    """Plan as many whole epochs as fit, each shortened equally so that the last step falls on the end.

    Args:
        seconds_left: until the end.
        times: of steps, evaluation and finish.
        shape: of a whole epoch.
        epochs_done: epochs that are complete.
    """
    available = max(0.0, seconds_left - times.finish)
    seconds_per_epoch = (
        _sum_step_times(20, times, shape.sizes) / 20 * shape.steps + times.evaluation
    )
    affordable = _EVALUATION_FRACTION * available / max(times.evaluation, 1e-9)
    at_least = math.floor(min(_MIN_EPOCHS, max(1.0, affordable)))

    epochs_left = max(1, math.ceil(available / seconds_per_epoch), at_least - epochs_done)
    epochs = epochs_done + epochs_left
    seconds_for_steps = available - epochs_left * times.evaluation
    steps = math.floor(seconds_for_steps / _sum_step_times(epochs, times, shape.sizes, epochs_done))

    return EpochPlan(epochs, min(shape.steps, max(1, steps)))


def _sum_step_times(epochs: int, times: Times, sizes: SizeSchedule, epochs_done: int = 0) -> float:
    """Return the seconds of one step in each of the epochs that are left."""
    return sum(times.step(sizes(epoch, epochs)) for epoch in range(epochs_done, epochs))


def update_times(
    times: Times, planned: EpochPlan, measured: MeasuredEpoch, sizes: SizeSchedule
) -> Times:
    """Correct the times by an epoch: fully after the first one, by half after later ones, as one epoch is noisy.

    Args:
        times: as assumed so far.
        planned: as the epoch was.
        measured: what it took.
        sizes: of the images.
    """
    scale = measured.step / times.step(sizes(measured.number - 1, planned.epochs))
    evaluation = measured.between
    if measured.number > 1:
        scale = (1 + scale) / 2
        evaluation = (times.evaluation + measured.between) / 2
    return Times(scale * times.fixed, scale * times.per_pixel, evaluation, times.finish)


def replan(
    planned: EpochPlan, epochs_done: int, clock: BudgetClock, times: Times, shape: EpochShape
) -> EpochPlan:
    """Plan what is left again; the plan stays the same while it fits to a hundredth of the budget.

    Args:
        planned: so far.
        epochs_done: epochs that are complete.
        clock: of the run.
        times: as assumed now.
        shape: of a whole epoch.
    """
    epochs_left = planned.epochs - epochs_done
    if epochs_left == 0:
        return planned
    seconds_of_steps = planned.steps * _sum_step_times(
        planned.epochs, times, shape.sizes, epochs_done
    )
    needed = seconds_of_steps + epochs_left * times.evaluation + times.finish
    if abs(needed - clock.left) <= _DRIFT * clock.budget:
        return planned
    return plan_epochs(clock.left, times, shape, epochs_done)


class BudgetController:
    """Keep a run to its time: called after each epoch, before its checkpoint, so that this contains the plan.

    Args:
        budget: seconds in total.
    """

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self._last_call = time.perf_counter()

    def __call__(self, setup: Setup, state: State, training: float, steps: int) -> None:
        """Plan what is left again, if the clock requires it.

        Args:
            setup: of the run.
            state: at the end of an epoch.
            training: seconds of the steps that this process took in the epoch.
            steps: their number; not all in an epoch that was resumed, or none.
        """
        now = time.perf_counter()
        between = now - self._last_call - training
        self._last_call = now
        if not steps:
            return  # the run was resumed at the end of the epoch, so that nothing was measured

        planned = EpochPlan(state.epochs, state.step_limit)
        clock = BudgetClock(self.budget, time.monotonic() - state.started)
        shape = EpochShape(setup.full_steps, size_schedule(setup.recipe))
        measured = MeasuredEpoch(state.epoch, training / steps, between)

        def decide() -> tuple[EpochPlan, Times]:
            times = update_times(Times(*state.times), planned, measured, shape.sizes)
            return replan(planned, state.epoch, clock, times, shape), times

        plan, times = setup.world.broadcast_object(decide)
        state.epochs = plan.epochs
        state.step_limit = plan.steps
        state.times = dataclasses.astuple(times)
        if plan != planned:
            log(
                f"Budget: planned again, {plan.epochs - state.epoch} more epochs of {plan.steps} steps."
            )
