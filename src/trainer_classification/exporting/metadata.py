"""Describe an exported model: what a file says of itself, beside its graph."""

from __future__ import annotations

import json

from trainer_classification.checkpoint.load_model import Model
from trainer_classification.checkpoint.model_id import model_id
from trainer_classification.data.formats import GRAY_SHIFT


def describe(model: Model) -> dict[str, str]:
    """Return texts by name: class names, what the graph does to images, and where the model comes from.

    No path is among them, as a file travels. Lists are JSON.
    """
    return {
        "class_names": json.dumps(list(model.class_names), ensure_ascii=False),
        "input": f"images: uint8 [batch, height, width, {model.channels}], decoded and upright, any size",
        "output": "probabilities: float32 [batch, classes]",
        "network": model.name,
        "image_size": str(model.image_size),
        "array_size": str(model.array_size),
        "resized": str(model.resized).lower(),
        "eval_crop": str(model.eval_crop),
        "gray_shift": str(model.gray_shift),
        "mean": json.dumps(list(model.mean)),
        "std": json.dumps(list(model.std)),
        "temperature": "" if model.temperature is None else str(model.temperature),
        "task": model.task,
        "dataset": model.dataset,
        "fingerprint": model.fingerprint,
        "model_id": model_id(model.network.state_dict()),
    }


def note_depth(model: Model) -> list[str]:
    """Say how gray images of 16 bits become those that a file takes, where it is not by their upper 8."""
    if model.gray_shift == GRAY_SHIFT:
        return []
    return [
        f"The images of the training used {8 + model.gray_shift} of 16 bits: pass them as np.minimum(values >> "
        f"{model.gray_shift}, 255).astype(np.uint8), as the metadata say (gray_shift)."
    ]
