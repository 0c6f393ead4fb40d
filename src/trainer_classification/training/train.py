"""Train: prepare and decide, plan, set up, run the epochs, test and report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer_classification.config import TrainConfig
from trainer_classification.data import manifest as manifests
from trainer_classification.data.in_use import hold
from trainer_classification.data.manifest import Manifest
from trainer_classification.outputs.tracking import NullTracker, Tracker
from trainer_classification.training.budget_trial import apply_budget
from trainer_classification.training.cpu_precision import complete_precision
from trainer_classification.training.dataset import prepare_dataset
from trainer_classification.training.distributed import World, join_processes
from trainer_classification.training.final_test import finish_run
from trainer_classification.training.linear_head import train_head
from trainer_classification.training.loop import fit
from trainer_classification.training.nodes import Facts, describe_run
from trainer_classification.training.resolve import PreparedDataset, Resolved, resolve
from trainer_classification.training.resume import start_state
from trainer_classification.training.resume_options import restore_options
from trainer_classification.training.setup import (
    Inputs,
    build_setup,
    log_setup,
)
from trainer_classification.training.signals import catch_signals
from trainer_classification.training.start_checkpoint import output_folder
from trainer_classification.training.threads import fix_threads


def train(config: TrainConfig, process_started: float | None = None) -> dict[str, Any]:
    """Train as the config asks, and return the summary.

    Args:
        config: what the user asked for.
        process_started: `time.monotonic()` at which the process started, for
            seconds_first_step; None: now.

    Raises:
        ValueError: something that the user can fix.
        Stopped: a signal arrived; the checkpoint is written.
    """
    config = restore_options(config)
    with join_run(config, process_started or time.monotonic()) as inputs:
        return run_training(inputs)


def train_prepared(
    config: TrainConfig, folder: Path, manifest: Manifest, started: float
) -> dict[str, Any]:
    """Train on a dataset that is prepared already, in this process; needs torch and numpy only.

    Args:
        config: what the user asked for.
        folder: of the prepared dataset.
        manifest: of the prepared dataset.
        started: `time.monotonic()` at which the command started.

    Raises:
        ValueError: something that the user can fix.
        Stopped: a signal arrived; the checkpoint is written.
    """
    return run_training(prepared_inputs(config, folder, manifest, started))


def prepared_inputs(
    config: TrainConfig,
    folder: Path,
    manifest: Manifest,
    started: float,
    world: World | None = None,
) -> Inputs:
    """Decide for a dataset that is prepared already.

    Arguments as `train_prepared`, and the processes that train.
    """
    world = world or World()
    config = restore_options(config)
    resolved = resolve(config, PreparedDataset(manifest), world, prepared=manifest.formats)
    fix_threads(resolved.start, world, resolved.device)
    resolved = complete_precision(config, resolved, manifest, world)
    return Inputs(config, resolved, folder, manifest, world, started)


@contextmanager
def join_run(
    config: TrainConfig,
    started: float,
    prepare: Callable[[TrainConfig, World], tuple[Path, Resolved]] = prepare_dataset,
) -> Iterator[Inputs]:
    """Prepare and decide in the first process of each machine, and join all processes.

    Args:
        config: what the user asked for.
        started: `time.monotonic()` at which the command started.
        prepare: prepares and decides.
    """

    def describe(prepared: tuple[Path, Resolved]) -> Facts:
        folder, resolved = prepared
        return describe_run(config, manifests.read(folder), resolved.device)

    with join_processes(config, lambda world: prepare(config, world), describe) as (
        world,
        (folder, resolved),
    ):
        # Machines may not share a disk, and so find different checkpoints; rank 0
        # decides.
        start = world.broadcast_object(lambda: resolved.start)
        resolved = dataclasses.replace(resolved, start=start)
        fix_threads(start, world, resolved.device)
        manifest = manifests.read(folder)
        resolved = complete_precision(config, resolved, manifest, world)
        yield Inputs(config, resolved, folder, manifest, world, started)


def run_training(inputs: Inputs) -> dict[str, Any]:
    """Plan, set up, train, test and report; return the summary.

    No other run replaces the dataset meanwhile.
    """
    with hold(inputs.folder):
        return _run_training(inputs)


def _run_training(inputs: Inputs) -> dict[str, Any]:
    inputs, progress = apply_budget(inputs)
    config = inputs.config

    def open_tracker() -> Tracker:
        if not inputs.world.main:
            return NullTracker()
        return Tracker(config.project_name, output_folder(config), config.name, config.tracker)

    setup = build_setup(inputs, open_tracker)
    log_setup(setup)
    state = start_state(setup, progress)
    with catch_signals() as received:
        try:
            if setup.recipe.freeze == "backbone":
                setup.start_tracking()  # features can take hours
                train_head(setup, state, received)
            else:
                fit(setup, state, received)
            return finish_run(setup, state)
        finally:
            state.close()
            setup.close()
            setup.close_tracker()
