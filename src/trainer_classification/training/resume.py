"""A checkpoint that the user picked on the platform: a training goes on from it where it fits, else begins with it."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from trainer_classification.checkpoint import archive
from trainer_classification.checkpoint import file as checkpoint
from trainer_classification.checkpoint.archive import Archive
from trainer_classification.config import TrainConfig
from trainer_classification.environment import in_cloud
from trainer_classification.options import options_of
from trainer_classification.training.run import Run
from trainer_classification.training.save import difference, restore


def find(config: TrainConfig) -> tuple[Archive | None, str]:
    """The archive that lies in the folder of the checkpoints at the start of a run in the cloud, and what to say of it.

    Raises:
        ValueError: it is no archive of a model.
    """
    if not in_cloud() or config.resume:
        return None, ""
    path, text = archive.find(Path(os.environ.get("MDI_CHECKPOINT_DIR", "/opt/ml/checkpoints")))
    return (None, "") if path is None else (archive.read(path), f"{text}.")


def with_its_network(config: TrainConfig, given: Archive | None) -> TrainConfig:
    """The config, with the archive's network where the user named none, by itself or by its recipe."""
    networks = get_args(options_of(TrainConfig)["model"][0])
    if given is None or config.model != "auto" or config.recipe == "speed" or given.network not in networks:
        return config
    return dataclasses.replace(config, model=given.network)  # type: ignore[arg-type]  # looked up in the line above


def unfinished(given: Archive) -> dict[str, Any] | None:
    """Meta of the archive's checkpoint, where its training was not finished."""
    if not given.has_checkpoint:
        return None
    with tempfile.TemporaryDirectory() as folder:
        meta = checkpoint.load(given.extract_checkpoint(Path(folder)))[1]
    return None if meta["finished"] else meta


def resume_from_archive(run: Run, given: Archive) -> str:
    """Go on from the archive where its training was not finished and had this dataset and recipe; else fine-tune.

    Returns:
        What was done, and why, for the user.

    Raises:
        ValueError: not even its weights fit the network.
    """
    why_not = "it holds weights alone"
    if given.has_checkpoint:
        with tempfile.TemporaryDirectory() as folder:
            why_not = _go_on(run, given, given.extract_checkpoint(Path(folder)))
    if not why_not:
        return f"Going on from {given.path.name} at epoch {run.state.epoch + 1}, step {run.state.step}."
    return f"{_fine_tune(run, given)} ({why_not})."


def _go_on(run: Run, given: Archive, path: Path) -> str:
    """Restore the run; returns why it cannot be, empty where it was."""
    meta = checkpoint.load(path)[1]
    if meta["finished"]:
        return "its training is finished"
    if run.budget_controller is not None and not meta["state"]["times"]:
        return "its training had no --budget"
    if reason := difference(run.manifest, run.recipe, meta):
        return f"it cannot go on: {reason}"
    if run.world.main:
        checkpoint.save(path.with_name("best.pth"), {"model": given.weights}, given.best)
    restore(run, path)
    return ""


@torch.no_grad()
def _fine_tune(run: Run, given: Archive) -> str:
    """Load the weights that fit; those of the head only where the classes are the same."""
    model = run.step.model
    mine = model.state_dict()
    head = "" if given.class_names == run.manifest.class_names else _head(model) + "."
    fit = {
        name: tensor
        for name, tensor in given.weights.items()
        if name in mine and tensor.shape == mine[name].shape and not (head and name.startswith(head))
    }
    if not fit:
        raise ValueError(
            f"The weights of {given.path.name} are of another network ({given.network}) and fit none of "
            f"{run.recipe.model}'s. Choose its --model, or pick no checkpoint."
        )
    model.load_state_dict(fit, strict=False)
    if run.step.average is not None:
        run.step.average.model.load_state_dict(model.state_dict())
    fresh = [name for name in mine if name not in fit]
    listed = f"; new are {', '.join(fresh[:4])}{', ...' if len(fresh) > 4 else ''}" if fresh else ""
    return f"Fine-tuning {given.path.name}: {len(fit)} of {len(mine)} tensors loaded{listed}"


def _head(model: nn.Module) -> str:
    """Name of the layer whose outputs are the classes."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
