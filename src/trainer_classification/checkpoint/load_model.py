"""Rebuild a trained model from a file that a run leaves."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from trainer_classification.checkpoint import archive
from trainer_classification.checkpoint import file as checkpoint
from trainer_classification.models import catalogue

_CANDIDATES = ("model.pth", "model/model.pth", "checkpoints/best.pth", "best.pth", "checkpoints/last.pth", "last.pth")


@dataclass(frozen=True)
class Model:
    """A trained network with all that is needed to use it; stands in for the real one until that is merged.

    Attributes:
        network: in evaluation mode, on the CPU; normalized float [B, C, H, W] to logits [B, K].
        name: of the network, such as "resnet18".
        class_names: in the order of the logits.
        image_size: side of the images it was trained for, in px.
        channels: of the images, 1 or 3.
        mean: to normalize by, for each channel, in 0..1.
        std: to normalize by, for each channel, in 0..1.
        dataset: name of the dataset it was trained on.
        source: file it was loaded from.
        resized: whether images were resized when they were prepared; else they kept their size, and were padded.
        array_size: side of the prepared images, in px.
        task: name of the dataset's task; "": not known.
        temperature: to divide the logits by before the softmax.
        crop_fraction: side of the central box that evaluation sees, as a share of the image's.
        fingerprint: of the prepared dataset.
    """

    network: nn.Module
    name: str
    class_names: tuple[str, ...]
    image_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dataset: str
    source: Path
    resized: bool
    array_size: int
    task: str = ""
    temperature: float = 1.0
    crop_fraction: float = 1.0
    fingerprint: str = ""


def load_model(path: str | Path) -> Model:
    """Load a trained model from a run's folder, its `model.pth`, a checkpoint or an archive."""
    source = Path(path)
    if source.is_dir():
        found = [source / name for name in _CANDIDATES if (source / name).is_file()]
        if not found:
            raise ValueError(f"{source} holds no model; it may be {', '.join(_CANDIDATES)}.")
        source = found[0]
    if source.is_file() and source.suffix == ".zip" and zipfile.is_zipfile(source):
        content = archive.read(source)
        tensors, meta = content.weights, content.best
        if not meta:
            raise ValueError(f"{source} is an archive of another trainer: use it with train.py --weights {source}.")
    else:
        state, meta = checkpoint.load(source)
        tensors = state.get("average", state["model"])
    recipe = meta["recipe"]
    network = catalogue.build(
        recipe["model"], len(meta["class_names"]), meta["channels"], meta["image_size"], recipe["width"]
    )
    network.load_state_dict(tensors)
    resized = meta.get("resized", recipe["policy"]["crop"] == "resized")
    return Model(
        network=network.eval(),
        name=recipe["model"],
        class_names=tuple(meta["class_names"]),
        image_size=meta["image_size"],
        channels=meta["channels"],
        mean=tuple(meta["mean"]),
        std=tuple(meta["std"]),
        dataset=meta["dataset"],
        source=source,
        resized=resized,
        array_size=meta.get("array_size", round(1.25 * meta["image_size"]) if resized else meta["image_size"]),
        task=meta.get("task", ""),
        fingerprint=meta["manifest_fingerprint"],
    )
