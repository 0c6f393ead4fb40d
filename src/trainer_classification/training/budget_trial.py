"""Choose epochs, their length, image sizes and batch for a budget by timing a few steps of a trial run."""

from __future__ import annotations

import dataclasses
import gc
import time

import torch

from trainer_classification.checkpoint.meta import CheckpointMeta, Progress
from trainer_classification.config import TrainConfig
from trainer_classification.console import duration, log
from trainer_classification.outputs.tracking import NullTracker
from trainer_classification.recipes import Recipe
from trainer_classification.training.budget import (
    EpochShape,
    has_budget,
    parse_seconds,
    plan_epochs,
    size_schedule,
)
from trainer_classification.training.features import time_features
from trainer_classification.training.resolve import complete_recipe
from trainer_classification.training.setup import Inputs, Setup, build_setup
from trainer_classification.training.state import State, create_state
from trainer_classification.training.step_times import (
    CLOSING_SECONDS,
    Times,
    estimate_evaluation,
    measure,
)

_SAVING_SECONDS = 0.2  # of a checkpoint and an epoch's lines, until one was measured
_MIN_STEPS = 200  # with fewer, half a batch twice as often learns more
_SMALLEST_BATCH = 32
_FIRST_SIZE = 0.7  # of the full side, if there is no time for the recipe's epochs
_FEATURE_SIDES = (192, 160, 128, 96)  # px, smaller than what the weights know: see docs/models.md
_TRIAL_FRACTION = 0.02  # of the budget, for the timed steps
_TRIAL_SECONDS = (0.5, 10.0)  # at least and at most


@dataclasses.dataclass(frozen=True)
class _Trial:
    """The result of a trial run: the config whose batch fits the memory, its recipe, and times."""

    config: TrainConfig
    recipe: Recipe
    full_steps: int
    times: Times


def apply_budget(inputs: Inputs) -> tuple[Inputs, Progress]:
    """Plan the run if it has a budget, as before if it resumes one that was planned.

    Args:
        inputs: of the run.

    Returns:
        The inputs with the planned values in their config, and the progress that
        holds the plan.

    Raises:
        ValueError: the budget is not a time, epochs are given as well, or the run
            to resume had no budget.
    """
    if not has_budget(inputs.config):
        return inputs, Progress()
    if inputs.resolved.freezes:
        return _choose_feature_side(inputs), Progress()
    meta = _find_planned_run(inputs)
    if meta is None:
        return _plan_run(inputs)
    config = _restore_plan(inputs.config, meta)

    return dataclasses.replace(inputs, config=config), Progress()


def _choose_feature_side(inputs: Inputs) -> Inputs:
    """Return the inputs with the largest images whose features fit the budget of a frozen backbone."""
    budget = parse_seconds(inputs.config.budget)
    setup = build_setup(inputs, NullTracker)
    try:
        full = setup.recipe.image_size
        seconds_per_image = time_features(setup, min(_TRIAL_SECONDS[1], 0.05 * budget))
    finally:
        setup.close()
    splits = setup.manifest.splits
    views = inputs.config.feature_views
    count = sum(split.count * (views if name == "train" else 1) for name, split in splits.items())
    seconds_left = budget - (time.monotonic() - inputs.started) - CLOSING_SECONDS

    def estimate(side: int) -> float:
        return count * seconds_per_image * (side / full) ** 2

    sides = [full, *(side for side in _FEATURE_SIDES if side < full)]
    side = next((side for side in sides if estimate(side) <= seconds_left), sides[-1])
    log(
        f"Budget: features of {count:,} images of {side} px, about {duration(estimate(side))} of the "
        f"{duration(max(0.0, seconds_left))} left of {inputs.config.budget}."
    )
    return dataclasses.replace(
        inputs, resolved=dataclasses.replace(inputs.resolved, feature_side=side)
    )


def _find_planned_run(inputs: Inputs) -> CheckpointMeta | None:
    """Return the description of the planned run that this one resumes; None if it does not.

    Raises:
        ValueError: the run to resume had no budget.
    """
    start = inputs.resolved.start
    meta = start.meta
    if start.kind == "resume" and meta is not None:
        if not meta.has_budget:
            raise ValueError(
                f"{start.path} is of a run without --budget: resume it without --budget, too."
            )
        return meta

    if start.kind != "archive" or meta is None or meta.progress.finished or not meta.has_budget:
        return None
    manifest = inputs.manifest
    recipe, _ = complete_recipe(_restore_plan(inputs.config, meta), inputs.resolved, manifest)
    differs = meta.find_difference(
        manifest.dataset, manifest.class_names, manifest.fingerprint, recipe, inputs.config
    )

    return None if differs else meta


def _restore_plan(config: TrainConfig, meta: CheckpointMeta) -> TrainConfig:
    """Return the config with the values that were planned for the run of a checkpoint."""
    recipe = meta.recipe
    return dataclasses.replace(
        config,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        progressive=recipe.progressive,
    )


def _plan_run(inputs: Inputs) -> tuple[Inputs, Progress]:
    """Choose epochs, batch and first size for the budget, and log them."""
    config = inputs.config
    if config.epochs:
        raise ValueError(f"--budget plans the epochs: omit --epochs {config.epochs}, or --budget.")
    budget = parse_seconds(config.budget)
    shortest, longest = _TRIAL_SECONDS
    trial_seconds = min(longest, max(shortest, _TRIAL_FRACTION * budget))

    trial = _run_trial(inputs, trial_seconds)
    seconds_left = budget - (time.monotonic() - inputs.started)
    batch_size = _choose_batch_size(
        trial.recipe, seconds_left / trial.times.step(trial.recipe.image_size)
    )
    if batch_size < trial.recipe.batch_size:
        smaller = _set_batch_size(trial.config, trial.recipe, batch_size)
        trial = _run_trial(dataclasses.replace(inputs, config=smaller), trial_seconds)

    seconds_left = budget - (time.monotonic() - inputs.started)
    trial = _choose_first_size(trial, seconds_left)
    recipe = trial.recipe
    plan = inputs.world.broadcast_object(
        lambda: plan_epochs(
            seconds_left, trial.times, EpochShape(trial.full_steps, size_schedule(recipe))
        )
    )
    growing = (
        f", {recipe.progressive} px growing to {recipe.image_size}" if recipe.progressive else ""
    )
    log(
        f"Budget: {plan.epochs} epochs of {plan.steps} steps (a whole one has {trial.full_steps}) of "
        f"{recipe.batch_size} images{growing}, in the {duration(max(0.0, seconds_left))} left of {config.budget}."
    )
    planned = dataclasses.replace(trial.config, epochs=plan.epochs)
    progress = Progress(
        epochs=plan.epochs, step_limit=plan.steps, times=dataclasses.astuple(trial.times)
    )

    return dataclasses.replace(inputs, config=planned), progress


def _choose_batch_size(recipe: Recipe, steps: float) -> int:
    """Return the recipe's batch size, halved while there is time for few steps only."""
    batch_size = recipe.batch_size
    while steps < _MIN_STEPS and batch_size >= 2 * _SMALLEST_BATCH:
        batch_size //= 2
        steps *= 2
    return batch_size


def _set_batch_size(config: TrainConfig, recipe: Recipe, batch_size: int) -> TrainConfig:
    """Change the batch size, and the learning rate in proportion (Goyal et al., arXiv 1706.02677)."""
    learning_rate = recipe.learning_rate * batch_size / recipe.batch_size
    return dataclasses.replace(config, batch_size=batch_size, learning_rate=learning_rate)


def _choose_first_size(trial: _Trial, seconds_left: float) -> _Trial:
    """Begin with smaller images if there is no time for the recipe's epochs, and the user has not decided."""
    recipe = trial.recipe
    shape = EpochShape(trial.full_steps, lambda *_: recipe.image_size)
    full = plan_epochs(seconds_left, trial.times, shape)
    if (
        recipe.policy.crop != "resized"
        or trial.config.progressive >= 0
        or full.epochs >= recipe.epochs
    ):
        return trial
    first = max(16, round(_FIRST_SIZE * recipe.image_size / 16) * 16)

    return dataclasses.replace(
        trial,
        config=dataclasses.replace(trial.config, progressive=first),
        recipe=dataclasses.replace(recipe, progressive=first),
    )


def _run_trial(inputs: Inputs, seconds: float) -> _Trial:
    """Time a trial run, with the batch halved until it fits the memory."""
    while True:
        setup = build_setup(inputs, NullTracker)
        state = create_state(setup)
        recipe = setup.recipe
        try:
            return _Trial(
                inputs.config, recipe, setup.full_steps, _measure_times(setup, state, seconds)
            )
        except torch.OutOfMemoryError:
            if inputs.world.size > 1:  # the other ranks wait in the step for this one
                raise ValueError(
                    f"A batch of {recipe.batch_size} does not fit the memory of GPU {inputs.world.local_rank}: use a "
                    "smaller --batch-size, or --accumulate 2."
                ) from None
            if recipe.batch_size < 2 * _SMALLEST_BATCH:
                raise
            smaller = _set_batch_size(inputs.config, recipe, recipe.batch_size // 2)
            inputs = dataclasses.replace(inputs, config=smaller)
            log(
                f"A batch of {recipe.batch_size} does not fit the memory: trying {smaller.batch_size}."
            )
        finally:
            state.close()
            setup.close()
            del state, setup
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _measure_times(setup: Setup, state: State, seconds: float) -> Times:
    """Time steps at the first size, and at the full one if it differs, and an evaluated batch."""
    full_size = setup.recipe.image_size
    first_size = state.loader_size
    first, batch = measure(setup, state, seconds)
    if first_size == full_size:
        # Without a second size, a step is assumed to be all pixels, as
        # convolutions are.
        full = first
        per_pixel = full / full_size**2
    else:
        state.reopen_loader(setup, full_size)
        full, batch = measure(setup, state, seconds)
        per_pixel = max(0.0, (full - first) / (full_size**2 - first_size**2))

    validation, final = estimate_evaluation(setup, batch)
    times = Times(
        fixed=max(0.0, full - per_pixel * full_size**2),
        per_pixel=per_pixel,
        evaluation=_SAVING_SECONDS + validation,
        finish=CLOSING_SECONDS + final,
    )

    return setup.world.broadcast_object(lambda: times)
