"""What a run writes to go on from, and how it goes on."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from trainer_classification.checkpoint import archive
from trainer_classification.checkpoint import file as checkpoint
from trainer_classification.config import TrainConfig
from trainer_classification.data.manifest import Manifest
from trainer_classification.environment import in_cloud
from trainer_classification.optim.parameter_groups import state_of
from trainer_classification.recipes import Recipe
from trainer_classification.training.run import Run, State


def checkpoint_to_resume(config: TrainConfig, log_dir: Path) -> tuple[Path | None, str]:
    """The checkpoint that --resume means, and why; looked for before the new experiment's folder is there."""
    if config.resume == "auto":
        folders = [log_dir / "experiments", Path(os.environ.get("MDI_CHECKPOINT_DIR", "/opt/ml/checkpoints"))]
        return checkpoint.newest(folders, config.project_name)
    return (Path(config.resume), f"Resume {config.resume}.") if config.resume else (None, "")


def _meta(run: Run) -> dict[str, Any]:
    manifest = run.manifest
    return {
        "config": dataclasses.asdict(run.config),
        "recipe": dataclasses.asdict(run.recipe),
        "dataset": manifest.dataset,
        "class_names": manifest.class_names,
        "channels": manifest.channels,
        "image_size": run.recipe.image_size,
        "mean": manifest.mean,
        "std": manifest.std,
        "task": manifest.task,
        "array_size": manifest.image_size,
        "resized": manifest.resized,
        "manifest_fingerprint": manifest.fingerprint,
        "finished": run.state.finished,
        "state": dataclasses.asdict(run.state),
    }


def save_model(run: Run, path: Path) -> None:
    """The weights that are kept, with all that is needed to use them; rank 0 writes."""
    if not run.world.main:
        return
    checkpoint.save(path, {"model": run.evaluated.state_dict()}, _meta(run))


def save(run: Run, name: str) -> None:
    """Everything that a run needs to go on; every rank takes part, rank 0 writes."""
    sums, not_finite = run.world.gather(run.totals.sums), run.world.gather(run.totals.not_finite)
    if not run.world.main:
        return
    run.state.spent = time.time() - run.began
    path = run.tracker.checkpoint_dir / name
    checkpoint.save(path, tensors_of(run, sums, not_finite), _meta(run))
    if in_cloud():
        _write_archive(run, path)


def tensors_of(run: Run, sums: torch.Tensor, not_finite: torch.Tensor) -> dict[str, Any]:
    """The tensors of a checkpoint; `sums` [world, 3] and `not_finite` [world] are the totals of all ranks."""
    step = run.step
    tensors: dict[str, Any] = {
        "model": step.model.state_dict(),
        "optimizer": state_of(step.optimizer),
        "scaler": step.scaler.state_dict(),
        "totals": {"sums": sums, "not_finite": not_finite, "wrong": run.totals.wrong},
    }
    if step.average is not None:
        tensors["average"] = step.average.model.state_dict()
    return tensors


def _write_archive(run: Run, path: Path) -> None:
    """What the platform offers to begin another experiment from: the checkpoint, and the best weights so far."""
    best = path.with_name("best.pth")
    weights, meta = run.evaluated.state_dict(), _meta(run)
    if best.is_file():
        state, meta = checkpoint.load(best)
        weights = state["model"]
    archive.write(path.parent, path, weights, meta, run.manifest.task)


def difference(manifest: Manifest, recipe: Recipe, meta: dict[str, Any]) -> str:
    """Why a run of this dataset and recipe cannot go on from a checkpoint with this meta; empty: it can."""
    same = {
        "class_names": manifest.class_names,
        "manifest_fingerprint": manifest.fingerprint,
        "recipe": dataclasses.asdict(recipe),
    }
    for name, mine in _plain(same).items():
        if meta[name] != mine:
            return f"its {name} differs ({_difference(meta[name], mine)})"
    return ""


def restore(run: Run, path: Path) -> None:
    """Go on from a checkpoint, which rank 0 reads for all.

    Raises:
        ValueError: it is of another dataset, of other classes or of another recipe.
    """
    tensors, meta = run.world.broadcast_object(lambda: _checked(run, path))
    run.step.model.load_state_dict(tensors["model"])
    run.step.optimizer.load_state_dict(tensors["optimizer"])
    if tensors["scaler"]:  # of a training in fp16; another precision scales nothing
        run.step.scaler.load_state_dict(tensors["scaler"])
    if run.step.average is not None:
        run.step.average.model.load_state_dict(tensors["average"])
    _restore_totals(run, tensors["totals"])
    run.state = State(**meta["state"])
    run.began -= run.state.spent
    best = path.with_name("best.pth")
    if run.world.main and best.is_file() and best.parent != run.tracker.checkpoint_dir:
        kept, kept_meta = checkpoint.load(best)
        checkpoint.save(run.tracker.checkpoint_dir / "best.pth", kept, kept_meta)


def _checked(run: Run, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    tensors, meta = checkpoint.load(path)
    if reason := difference(run.manifest, run.recipe, meta):
        raise ValueError(
            f"{path} cannot be resumed: {reason}. Give the options and the dataset it was trained with, or train anew "
            f"without --resume."
        )
    if not path.with_name("best.pth").is_file():
        meta["state"]["best"] = -1.0  # copied alone: the best weights are those of the epochs to come
    return tensors, meta


def _restore_totals(run: Run, saved: dict[str, Any]) -> None:
    """Each rank its own sums; with another number of ranks, rank 0 has them all."""
    sums, rank = saved["sums"], run.world.rank
    if len(sums) != run.world.size:
        sums = torch.cat([sums.sum(0, keepdim=True), sums.new_zeros(run.world.size - 1, sums.shape[1])])
    run.totals.sums.copy_(sums[rank])
    run.totals.not_finite.copy_(saved["not_finite"].max())
    run.totals.wrong.copy_(saved["wrong"])


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """As it comes back from JSON."""
    return dict(json.loads(json.dumps(value)))


def _difference(theirs: Any, ours: Any) -> str:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return ", ".join(f"{k} {theirs.get(k)} / {ours.get(k)}" for k in theirs | ours if theirs.get(k) != ours.get(k))
    return f"{str(theirs)[:60]} / {str(ours)[:60]}"
