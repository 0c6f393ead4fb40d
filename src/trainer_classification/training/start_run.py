"""A run before its first step: new, planned by a budget, or gone on from a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from trainer_classification.checkpoint import file as checkpoint
from trainer_classification.checkpoint.archive import Archive
from trainer_classification.config import TrainConfig
from trainer_classification.console import log
from trainer_classification.data.manifest import Manifest
from trainer_classification.device import choose_device
from trainer_classification.outputs.tracking import Tracker
from trainer_classification.training import budget
from trainer_classification.training import resume as picked
from trainer_classification.training.distributed import World
from trainer_classification.training.run import Run, State, build_run, recipe_of
from trainer_classification.training.save import checkpoint_to_resume, difference, restore


def start_run(
    config: TrainConfig,
    folder: Path,
    manifest: Manifest,
    started: float,
    world: World,
    tracker_of: Callable[[], Tracker],
) -> Run:
    """A run before its first step: planned where it has a budget, restored where it goes on from a checkpoint.

    Raises:
        ValueError: the options contradict each other, the dataset or the checkpoint.
    """
    resume, reason = world.broadcast_object(lambda: checkpoint_to_resume(config, Path(config.output_dir or ".data")))
    given, text = picked.find(config)
    for line in filter(None, (reason, text)):
        log(line)
    config = picked.with_its_network(config, given)
    held, state = bool(config.budget) and not config.stop_early, State()
    if held:
        before = world.broadcast_object(lambda: _before(config, manifest, resume, given))
        config, state = (before, state) if before else _planned(config, folder, manifest, started, world)
    run = build_run(config, folder, manifest, tracker_of(), world)
    run.began, run.state = started, state
    if held:
        run.budget_controller = budget.BudgetController(budget.seconds_of(config.budget))
    if resume is not None:
        restore(run, resume)
    if given is not None:
        log(picked.resume_from_archive(run, given))
    return run


def _before(config: TrainConfig, manifest: Manifest, resume: Path | None, given: Archive | None) -> TrainConfig | None:
    """The config of the run with a budget that this one goes on from, as it was planned; None: it is another.

    Raises:
        ValueError: the run to resume had no budget.
    """
    if resume is not None:
        before = checkpoint.load(resume)[1]
        if not before["state"]["times"]:
            raise ValueError(f"{resume} is of a run without --budget: resume it without, too.")
        return budget.as_before(config, before["recipe"])
    meta = picked.unfinished(given) if given is not None else None
    if meta is None or not meta["state"]["times"]:
        return None
    planned = budget.as_before(config, meta["recipe"])
    recipe, _ = recipe_of(planned, manifest, choose_device(config.device)[0])
    return None if difference(manifest, recipe, meta) else planned


def _planned(
    config: TrainConfig, folder: Path, manifest: Manifest, started: float, world: World
) -> tuple[TrainConfig, State]:
    """The config as the budget plans it, and the state that holds the plan."""
    config, scheme, times = budget.plan(config, folder, manifest, started, world)
    return config, State(epochs=scheme.epochs, limit=scheme.limit, times=dataclasses.astuple(times))
