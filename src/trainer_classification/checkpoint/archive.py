"""`checkpoint.zip`: what the platform offers to begin another experiment from.

A zip, not compressed, of the layout that Hafnia's own trainers use, and one member of ours:

    model_config.json   {"name", "task" (the SDK's TaskInfo), "model_weight_path", "image_size"}; ours has "best" too
    weights.pth         state dict of the best model so far, by torchvision's names
    checkpoint.pth      the whole state of the training (`training/checkpoint.py`); others' archives have none
"""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

FILE_NAME = "checkpoint.zip"
CONFIG = "model_config.json"
_WEIGHTS, _CHECKPOINT = "weights.pth", "checkpoint.pth"


@dataclass(frozen=True)
class Archive:
    """An archive that was read.

    Attributes:
        path: of the zip.
        network: its name, such as "resnet18".
        class_names: in the order of the model's outputs.
        weights: state dict, on the CPU.
        best: meta of the checkpoint that the weights are from; empty in others' archives.
        has_checkpoint: whether a training can go on from it.
    """

    path: Path
    network: str
    class_names: list[str]
    weights: dict[str, torch.Tensor]
    best: dict[str, Any]
    has_checkpoint: bool

    def extract_checkpoint(self, folder: Path) -> Path:
        """Write the checkpoint into a folder; returns its path."""
        with zipfile.ZipFile(self.path) as file:
            return Path(file.extract(_CHECKPOINT, folder))


def write(folder: Path, checkpoint: Path, weights: dict[str, torch.Tensor], meta: dict[str, Any], task: str) -> Path:
    """Write `folder/checkpoint.zip`, whole or not at all.

    Args:
        folder: of the checkpoints.
        checkpoint: file to go on from.
        weights: the best ones so far.
        meta: of the checkpoint that they are from, as `saving.py` makes it.
        task: name of the dataset's task.
    """
    classes = [{"name": name} for name in meta["class_names"]]
    config = {
        "name": meta["recipe"]["model"],
        "task": {"primitive": "Classification", "name": task, "classes": classes},
        "model_weight_path": _WEIGHTS,
        "image_size": meta["image_size"],
        "best": meta,
    }
    path = folder / FILE_NAME
    temporary = folder / f".{FILE_NAME}.{os.getpid()}.tmp"
    try:
        with zipfile.ZipFile(temporary, "w") as file:
            file.writestr(CONFIG, json.dumps(config, indent=1))
            with file.open(_WEIGHTS, "w", force_zip64=True) as member:
                torch.save(weights, member)
            file.write(checkpoint, _CHECKPOINT)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def find(folder: Path) -> tuple[Path | None, str]:
    """The archive that the user picked on the platform, and what to say of it.

    The platform lays it into the folder of the checkpoints before the run starts. Where a run has written there
    already, that archive is its own.
    """
    found = sorted(folder.glob("*.zip"))
    if not found or (folder / "last.pth").exists():
        return None, ""
    others = f"; it is the first of {len(found)} there" if len(found) > 1 else ""
    return found[0], f"Checkpoint: {found[0].name}{others}"


def read(path: Path) -> Archive:
    """Read an archive, of this trainer or of one of Hafnia's own.

    Raises:
        ValueError: it is no such archive, or damaged.
    """
    try:
        with zipfile.ZipFile(path) as file:
            config = json.loads(file.read(CONFIG))
            with file.open(Path(config["model_weight_path"]).name) as member:
                weights = torch.load(member, map_location="cpu", weights_only=True)
            names = [entry["name"] for entry in config["task"]["classes"]]
            has_checkpoint = _CHECKPOINT in file.namelist()
    except Exception as error:  # zipfile, json, pickle and torch raise whatever they like on bytes that are not theirs
        raise ValueError(
            f"{path} is damaged or not a model archive ({CONFIG} and its weights): {error}. Pick another checkpoint."
        ) from error
    return Archive(path, config["name"], names, weights, config.get("best", {}), has_checkpoint)
