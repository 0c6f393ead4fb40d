"""Write the checkpoints of a run."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch

from trainer_classification.checkpoint import archive
from trainer_classification.checkpoint import file as checkpoint
from trainer_classification.checkpoint.meta import CheckpointMeta
from trainer_classification.environment import in_cloud
from trainer_classification.faster_precision import name_precision
from trainer_classification.optim.parameter_groups import optimizer_state
from trainer_classification.training.setup import Setup, portable_options
from trainer_classification.training.state import State


def describe(
    setup: Setup,
    state: State,
    temperature: float | None = None,
    *,
    config: dict[str, Any] | None = None,
) -> CheckpointMeta:
    """Describe a checkpoint of the run as it is now.

    Args:
        setup: of the run.
        state: of the run.
        temperature: fitted to its weights; None: not fitted.
        config: the options; None: without folders that name users and machines.
    """
    manifest = setup.manifest
    return CheckpointMeta(
        config=portable_options(setup.config) if config is None else config,
        recipe=setup.recipe,
        dataset=manifest.dataset,
        class_names=manifest.class_names,
        channels=manifest.channels,
        image_size=setup.recipe.image_size,
        mean=setup.mean,
        std=setup.std,
        fingerprint=manifest.fingerprint,
        progress=state.progress,
        task=manifest.task,
        array_size=manifest.image_size,
        resized=manifest.resized,
        temperature=temperature,
        gray_shift=manifest.gray_shift,
        cpu_precision=name_precision(setup.dtype) if setup.device.type == "cpu" else "",
        cpu_threads=torch.get_num_threads() if setup.device.type == "cpu" else 0,
    )


def save_model(setup: Setup, state: State, path: Path) -> None:
    """Write the evaluated weights with everything that is needed to use them; only rank 0 writes."""
    if setup.world.main:
        checkpoint.save(path, {"model": setup.step.kept_model.state_dict()}, describe(setup, state))


def save_checkpoint(setup: Setup, state: State, name: str) -> None:
    """Write everything that a run needs to continue; every rank must call this, and rank 0 writes.

    Args:
        setup: of the run.
        state: of the run.
        name: of the file in the folder of the checkpoints.
    """
    sums = setup.world.gather(state.metrics.sums)
    not_finite = setup.world.gather(state.metrics.not_finite)
    if not setup.world.main:
        return
    state.seconds_spent = time.monotonic() - state.started
    path = setup.tracker.checkpoint_dir / name
    # With whole paths: a run is resumed by what its options say.
    meta = describe(setup, state, config=dataclasses.asdict(setup.config))
    checkpoint.save(path, collect_tensors(setup, state, sums, not_finite), meta)
    if in_cloud():
        _write_archive(setup, state, path)


def collect_tensors(
    setup: Setup, state: State, sums: torch.Tensor, not_finite: torch.Tensor
) -> dict[str, Any]:
    """Return the tensors of a checkpoint.

    Args:
        setup: of the run.
        state: of the run.
        sums: `Metrics.sums` of all ranks, [world, 3].
        not_finite: `Metrics.not_finite` of all ranks, [world].
    """
    step = setup.step
    tensors: dict[str, Any] = {
        "model": step.model.state_dict(),
        "optimizer": optimizer_state(step.optimizer),
        "scaler": step.scaler.state_dict(),
        "totals": {"sums": sums, "not_finite": not_finite, "wrong": state.metrics.failed_steps},
    }
    if step.ema is not None:
        tensors["average"] = step.ema.model.state_dict()
    return tensors


def save_final(setup: Setup, state: State, temperature: float | None) -> CheckpointMeta:
    """Write the kept weights with their temperature to all places where a finished run has them; rank 0 calls this.

    These are model.pth and model.zip for the model, best.pth among the
    checkpoints, and in the cloud its archive.

    Returns:
        The description of the model.
    """
    tracker = setup.tracker
    weights = setup.step.kept_model.state_dict()
    meta = describe(setup, state, temperature)
    checkpoint.save(tracker.model_dir / "model.pth", {"model": weights}, meta)
    archive.write(tracker.model_dir, None, weights, meta, setup.manifest.task)

    best = tracker.checkpoint_dir / "best.pth"
    tensors, best_meta = checkpoint.load(best)
    checkpoint.save(best, tensors, dataclasses.replace(best_meta, temperature=temperature))
    last = tracker.checkpoint_dir / "last.pth"
    if in_cloud() and last.is_file():
        _write_archive(setup, state, last)
    return meta


def _write_archive(setup: Setup, state: State, path: Path) -> None:
    """Write the archive that the platform offers for other experiments: the checkpoint, and the best weights so far."""
    best = path.with_name("best.pth")
    if best.is_file():
        tensors, meta = checkpoint.load(best)
        weights = tensors["model"]
    else:
        weights = setup.step.kept_model.state_dict()
        meta = describe(setup, state)
    archive.write(path.parent, path, weights, meta, setup.manifest.task)
