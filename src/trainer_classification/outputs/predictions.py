"""Write what a model says of the images of a split as JSON lines, in the order of the samples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from trainer_classification.arrays import Float32
from trainer_classification.files import write_atomically
from trainer_classification.metrics.calibration import confidence_of


def name_classes(
    logits: Float32, class_names: Sequence[str], temperature: float | None
) -> list[tuple[str, float]]:
    """Return the likeliest class of each image with its confidence; among equal logits that of the lowest index.

    Args:
        logits: float32 [N, K], finite.
        class_names: K names.
        temperature: that the logits are divided by for the confidence; None: 1.
    """
    confidences = confidence_of(logits, temperature or 1.0).tolist()
    names = [class_names[index] for index in logits.argmax(axis=1).tolist()]

    return list(zip(names, confidences, strict=True))


def write_predictions(
    path: Path, files: Sequence[str], predictions: Sequence[tuple[str, float]], *, model: str
) -> Path:
    """Write one line for each image: {"path", "class", "confidence", "model"}.

    Args:
        path: of the file.
        files: N paths, relative to the dataset's folder.
        predictions: N classes, each with its confidence.
        model: id of the model that made them.
    """
    lines = [
        json.dumps({"path": file, "class": name, "confidence": confidence, "model": model}) + "\n"
        for file, (name, confidence) in zip(files, predictions, strict=True)
    ]

    return write_atomically(path, "".join(lines))
