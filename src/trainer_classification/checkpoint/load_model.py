"""Rebuild a trained model from a file that a run leaves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from trainer_classification import models
from trainer_classification.checkpoint import file as checkpoint


@dataclass(frozen=True)
class Model:
    """A trained network with all that is needed to use it; stands in for the real one until that is merged."""

    network: nn.Module
    name: str
    class_names: tuple[str, ...]
    image_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dataset: str
    source: Path
    temperature: float | None = None


def load_model(path: str | Path) -> Model:
    """Load a trained model from a run's folder or its `model.pth`."""
    source = Path(path)
    if source.is_dir():
        source = source / "model/model.pth"
    state, meta = checkpoint.load(source)
    recipe = meta["recipe"]
    network = models.build(
        recipe["model"], len(meta["class_names"]), meta["channels"], meta["image_size"], recipe["width"]
    )
    network.load_state_dict(state["model"])
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
    )
