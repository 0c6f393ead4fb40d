"""Bring a run to where it starts: a checkpoint to resume, or the weights of a picked archive to fine-tune."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer_classification.checkpoint import archive
from trainer_classification.checkpoint import file as checkpoint
from trainer_classification.checkpoint.archive import Archive
from trainer_classification.checkpoint.meta import CheckpointMeta, Progress
from trainer_classification.console import log
from trainer_classification.models.catalogue import NETWORKS
from trainer_classification.names import list_names
from trainer_classification.optim.lr_schedule import factor
from trainer_classification.optim.parameter_groups import load_optimizer_state
from trainer_classification.options import flag
from trainer_classification.recipes import Recipe
from trainer_classification.training.budget import has_budget
from trainer_classification.training.resume_options import keep_schedule
from trainer_classification.training.setup import Setup
from trainer_classification.training.start_checkpoint import explain_refusal, reads_options
from trainer_classification.training.state import State, create_state


def start_state(setup: Setup, progress: Progress) -> State:
    """Return the state of a run before its first step, restored where it resumes a checkpoint.

    Args:
        setup: of the run; its model and optimizer are restored, too.
        progress: with the epochs that a budget planned.

    Raises:
        ValueError: the checkpoint is of another dataset or recipe, or the
            archive's weights fit nowhere.
    """
    state = create_state(setup, progress)
    start = setup.inputs.resolved.start
    if start.kind == "resume" and start.path is not None:
        restore(setup, state, start.path)
    if start.kind == "archive" and start.path is not None:
        log(_use_archive(setup, state, archive.read(start.path), start.meta))
    return state


def restore(setup: Setup, state: State, path: Path) -> None:
    """Continue from a checkpoint, which rank 0 reads for all ranks.

    Raises:
        ValueError: it is of another dataset, of other classes or of another
            recipe.
    """
    tensors, meta = setup.world.broadcast_object(lambda: _load_matching(setup, path))
    step = setup.step
    step.model.load_state_dict(tensors["model"])
    load_optimizer_state(step.optimizer, tensors["optimizer"])
    if tensors["scaler"]:  # empty unless the checkpoint is of a training in fp16
        step.scaler.load_state_dict(tensors["scaler"])
    if step.ema is not None:
        step.ema.model.load_state_dict(tensors["average"])
    _restore_metrics(setup, state, tensors["totals"])
    state.restore_progress(meta.progress)
    _copy_best_weights(setup, path.with_name("best.pth"))
    last = setup.tracker.checkpoint_dir / "last.pth" if setup.world.main else path
    if meta.progress.finished and last != path:  # no epoch is left that would write it
        checkpoint.save(last, tensors, meta)


def _load_matching(setup: Setup, path: Path) -> tuple[dict[str, Any], CheckpointMeta]:
    """Load a checkpoint, and check that this run can continue from it."""
    tensors, meta = checkpoint.load(path)
    if difference := _find_difference(setup, meta, reads_options(setup.config)):
        raise explain_refusal(path, difference)
    meta = _continue_schedule(setup, path, meta)
    if not path.with_name("best.pth").is_file():
        # Only this file was copied, so the best weights will be those of a later
        # epoch.
        progress = dataclasses.replace(meta.progress, best_score=Progress.best_score)
        meta = dataclasses.replace(meta, progress=progress)
    return tensors, meta


def _find_difference(setup: Setup, meta: CheckpointMeta, may_change: bool = False) -> str:
    """Say why a run cannot continue; epochs and learning rate are not compared if they may change."""
    manifest = setup.manifest
    recipe = keep_schedule(setup.recipe, meta.recipe) if may_change else setup.recipe
    return meta.find_difference(
        manifest.dataset, manifest.class_names, manifest.fingerprint, recipe, setup.config
    )


def _continue_schedule(setup: Setup, path: Path, meta: CheckpointMeta) -> CheckpointMeta:
    """Log what other epochs or another learning rate mean from here on.

    Returns:
        The description, which is not finished if epochs were added.

    Raises:
        ValueError: the run has done more epochs than are asked for.
    """
    progress = meta.progress
    now = setup.recipe
    before = meta.recipe
    if keep_schedule(now, before) == now:
        return meta
    if now.epochs < progress.epoch + (progress.step > 0):
        part = " and a part of the next" if progress.step else ""
        raise ValueError(
            f"--epochs is {now.epochs}, but the run of {path} has trained {progress.epoch} epochs{part}: give more, or "
            f"omit --epochs."
        )

    changes = [
        f"{flag(name)} is {getattr(now, name):g} instead of {getattr(before, name):g}"
        for name in ("epochs", "learning_rate")
        if getattr(now, name) != getattr(before, name)
    ]
    rates = [_describe_rate(setup, progress, recipe) for recipe in (now, before)]
    log(
        f"Note: {' and '.join(changes)}: from here on, the learning rate follows the curve that a new run would have "
        f"at this step ({rates[0]}, where it was {rates[1]}). The result is not that of a run with this value from "
        f"its start."
    )
    finished = progress.epoch >= now.epochs
    return dataclasses.replace(meta, progress=dataclasses.replace(progress, finished=finished))


def _describe_rate(setup: Setup, progress: Progress, recipe: Recipe) -> str:
    """Return the learning rate of the next step of a recipe."""
    epochs_left = recipe.epochs - progress.epoch
    total = progress.steps_before + epochs_left * setup.steps_per_epoch(progress)
    if progress.steps_done >= total:
        return "at its end"
    scale = factor(progress.steps_done, total, recipe.schedule, recipe.warmup_fraction)
    return f"{recipe.learning_rate * scale:.3g}"


def _restore_metrics(setup: Setup, state: State, saved: dict[str, Tensor]) -> None:
    """Give each rank its own sums; if the number of ranks has changed, give them all to rank 0."""
    sums = saved["sums"]
    world = setup.world
    if len(sums) != world.size:
        sums = torch.cat([sums.sum(0, keepdim=True), sums.new_zeros(world.size - 1, sums.shape[1])])
    state.metrics.sums.copy_(sums[world.rank])
    state.metrics.not_finite.copy_(saved["not_finite"].max())
    state.metrics.failed_steps.copy_(saved["wrong"])


def _copy_best_weights(setup: Setup, best: Path) -> None:
    """Copy the best weights of the resumed run into this run's folder."""
    folder = setup.tracker.checkpoint_dir
    if setup.world.main and best.is_file() and best.parent != folder:
        checkpoint.save(folder / best.name, *checkpoint.load(best))


def _use_archive(setup: Setup, state: State, found: Archive, meta: CheckpointMeta | None) -> str:
    """Resume the archive's training if it fits this run, else fine-tune its weights.

    Returns:
        What was done and why, for the user.

    Raises:
        ValueError: not even its weights fit the network.
    """
    obstacle = _find_obstacle(setup, meta)
    if obstacle:
        return f"{_load_fitting_weights(setup, found)} ({obstacle})."
    with tempfile.TemporaryDirectory() as folder:
        path = found.extract_checkpoint(Path(folder))
        if setup.world.main and found.best is not None:
            checkpoint.save(path.with_name("best.pth"), {"model": found.load_weights()}, found.best)
        restore(setup, state, path)

    return f"Resuming {found.path.name} at epoch {state.epoch + 1}, step {state.step}."


def _find_obstacle(setup: Setup, meta: CheckpointMeta | None) -> str:
    """Say why the archive's training cannot be resumed; "" if it can."""
    if meta is None:
        return "it holds weights only"
    if meta.progress.finished:
        return "its training is finished"
    if has_budget(setup.config) and not meta.has_budget:
        return "its training had no --budget"
    if difference := _find_difference(setup, meta):
        return f"it cannot be resumed: {difference}"
    return ""


@torch.no_grad()
def _load_fitting_weights(setup: Setup, found: Archive) -> str:
    """Load the weights that fit, those of the head only if the classes are the same; say which are new."""
    step = setup.step
    wanted = step.model.state_dict()
    same_classes = found.class_names == setup.manifest.class_names
    head = f"{NETWORKS[setup.recipe.model].head}."
    fitting = {
        name: tensor
        for name, tensor in found.load_weights().items()
        if name in wanted
        and tensor.shape == wanted[name].shape
        and (same_classes or not name.startswith(head))
    }
    if not fitting:
        raise ValueError(
            f"The weights of {found.path.name} are of another network ({found.network}) and fit none of "
            f"{setup.recipe.model}'s. Choose its --model, or pick no checkpoint."
        )

    step.model.load_state_dict(fitting, strict=False)
    if step.ema is not None:
        step.ema.model.load_state_dict(step.model.state_dict())
    new = [name for name in wanted if name not in fitting]
    listed = f"; new are {list_names(new, 4)}" if new else ""

    return f"Fine-tuning {found.path.name}: {len(fitting)} of {len(wanted)} tensors loaded{listed}"
