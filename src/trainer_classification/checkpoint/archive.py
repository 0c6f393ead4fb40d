"""Write and read `checkpoint.zip`, which the platform offers as the start of another experiment.

It is an uncompressed zip with the layout of Hafnia's own trainers, and one member
of ours:

    model_config.json   {"name", "task" (the SDK's TaskInfo), "model_weight_path", "image_size"}; ours adds "network",
                        "mean", "std", "eval_crop" (as `Recipe.eval_crop`), "temperature" and "best", the description of
                        the weights
    weights.pth         state dict of the best model so far, with torchvision's parameter names
    stem.pth            tensors of ours that are others in weights.pth, see `foreign_stem`
    checkpoint.pth      the complete state of the training (`checkpoint/file.py`)

Archives of others have the first two only. Ours is right for the reader of
Hafnia's trainer, or has a "name" that this reader refuses.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from trainer_classification.checkpoint import file as checkpoint
from trainer_classification.checkpoint.foreign_stem import is_readable, rewrite_stem
from trainer_classification.checkpoint.meta import CheckpointMeta
from trainer_classification.files import dump_json, write_atomically

FILE_NAME = "checkpoint.zip"
MODEL_FILE_NAME = "model.zip"
CONFIG = "model_config.json"
_WEIGHTS = "weights.pth"
_STEM = "stem.pth"
_CHECKPOINT = "checkpoint.pth"
_REFUSED = (
    "of trainer-classification: "  # before the name of a network that other readers would get wrong
)


@dataclass(frozen=True)
class Archive:
    """An archive, without its weights.

    Attributes:
        path: of the zip.
        network: its name, such as "resnet18".
        class_names: in the order of the model's outputs.
        best: description of the checkpoint that the weights are from; None in
            archives of others.
        has_checkpoint: True if a training can be resumed from it.
        image_size: side of the images that the network was trained for, in px.
        task: of the dataset.
    """

    path: Path
    network: str
    class_names: list[str]
    best: CheckpointMeta | None
    has_checkpoint: bool
    image_size: int
    task: str

    def load_weights(self) -> dict[str, Tensor]:
        """Read the state dict, on the CPU.

        Raises:
            ValueError: it is damaged.
        """
        try:
            with zipfile.ZipFile(self.path) as file, file.open(_weights_name(file)) as member:
                tensors = dict(torch.load(member, map_location="cpu", weights_only=True))
                return tensors | _load_stem(file)
        except Exception as error:  # zipfile, pickle and torch raise many kinds on damaged files
            raise _damaged(self.path, error) from error

    def load_checkpoint_meta(self) -> CheckpointMeta | None:
        """Read the description of the checkpoint to resume from; None without one."""
        if not self.has_checkpoint:
            return None
        with tempfile.TemporaryDirectory() as folder:
            return checkpoint.load_meta(self.extract_checkpoint(Path(folder)))

    def extract_checkpoint(self, folder: Path) -> Path:
        """Write the checkpoint into a folder, and return its path."""
        with zipfile.ZipFile(self.path) as file:
            return Path(file.extract(_CHECKPOINT, folder))


def write(
    folder: Path,
    checkpoint: Path | None,
    weights: dict[str, Tensor],
    meta: CheckpointMeta,
    task: str,
) -> Path:
    """Write `folder/checkpoint.zip` atomically, or `folder/model.zip`, from which no training can be resumed.

    Args:
        folder: of the checkpoints, or of the model.
        checkpoint: file to resume from; None for `model.zip`.
        weights: the best ones so far.
        meta: description of the checkpoint that the weights are from.
        task: name of the dataset's task.

    Returns:
        The path of the archive.
    """
    classes = [{"name": name} for name in meta.class_names]
    original: dict[str, Tensor] = {}
    if is_readable(meta):
        weights, original = rewrite_stem(weights, meta)
    config = {
        "name": meta.network if original else _REFUSED + meta.network,
        "task": {"primitive": "Classification", "name": task, "classes": classes},
        "model_weight_path": _WEIGHTS,
        "image_size": meta.image_size,
        "eval_crop": meta.recipe.eval_crop,
        "network": meta.network,
        "mean": meta.mean,
        "std": meta.std,
        "temperature": meta.temperature,
    }
    text = dump_json(config, indent=1).removesuffix("\n}")
    text = f'{text},\n "best": {meta.to_text()}\n}}'

    def write_members(target: BinaryIO) -> None:
        with zipfile.ZipFile(target, "w") as file:
            file.writestr(CONFIG, text)
            with file.open(_WEIGHTS, "w", force_zip64=True) as member:
                torch.save(weights, member)
            if original:
                with file.open(_STEM, "w") as member:
                    torch.save(original, member)
            if checkpoint is not None:
                file.write(checkpoint, _CHECKPOINT)

    name = FILE_NAME if checkpoint is not None else MODEL_FILE_NAME

    return write_atomically(folder / name, write_members)


def describe_readers(meta: CheckpointMeta) -> str:
    """Say, for the model card, who reads the archive of this model right."""
    if is_readable(meta):
        return (
            "load_model of this trainer, and the reader of Hafnia's trainer-classification, which normalizes by the "
            "mean and standard deviation of ImageNet: its first layers are rewritten for that"
        )
    return "load_model of this trainer only; the reader of Hafnia's trainer-classification refuses its name"


def find(folder: Path) -> tuple[Path | None, str]:
    """Find the archive that the user picked on the platform.

    The platform puts it into the folder of the checkpoints before the run starts.
    Once a run has written `last.pth` there, an archive in the folder is its own.

    Returns:
        Its path or None, and what to tell the user.
    """
    found = sorted(folder.glob("*.zip"))
    if not found or (folder / "last.pth").exists():
        return None, ""
    others = f", the first of {len(found)} in its folder" if len(found) > 1 else ""

    return found[0], f"{found[0].name}{others}"


def is_archive(path: Path) -> bool:
    """Return True for a zip in this layout."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return CONFIG in file.namelist()


def read(path: Path) -> Archive:
    """Read an archive of this trainer or of one of Hafnia's own.

    Raises:
        ValueError: it is not such an archive, or it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as file:
            config: dict[str, Any] = json.loads(file.read(CONFIG))
            file.getinfo(_weights_name(file))
            return Archive(
                path=path,
                network=config.get("network", config["name"]),
                class_names=[entry["name"] for entry in config["task"]["classes"]],
                best=CheckpointMeta.from_json(config["best"]) if config.get("best") else None,
                has_checkpoint=_CHECKPOINT in file.namelist(),
                image_size=config["image_size"],
                task=config["task"].get("name", ""),
            )
    except Exception as error:  # zipfile and json raise many kinds on bytes that are not theirs
        raise _damaged(path, error) from error


def _weights_name(file: zipfile.ZipFile) -> str:
    return Path(json.loads(file.read(CONFIG))["model_weight_path"]).name


def _load_stem(file: zipfile.ZipFile) -> dict[str, Tensor]:
    if _STEM not in file.namelist():
        return {}
    with file.open(_STEM) as member:
        return dict(torch.load(member, map_location="cpu", weights_only=True))


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} is damaged or not a model archive ({CONFIG} and its weights): "
        f"{checkpoint.describe_failure(error)}. Pick another checkpoint."
    )
