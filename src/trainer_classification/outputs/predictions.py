"""Write what a model says of the images of a split as JSON lines, in the order of the samples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from trainer_classification.arrays import Float32
from trainer_classification.files import write_atomically
from trainer_classification.metrics.calibration import confidence_of


def write_predictions(
    path: Path,
    files: Sequence[str],
    logits: Float32,
    class_names: Sequence[str],
    *,
    temperature: float | None,
    model: str,
) -> Path:
    """Write one line for each image: {"path", "class", "confidence", "model"}.

    Among equal logits the lowest index is taken.

    Args:
        path: of the file.
        files: N paths, relative to the dataset's folder.
        logits: float32 [N, K], finite.
        class_names: K names.
        temperature: that the logits are divided by for the confidence; None: 1.
        model: id of the model that made them.
    """
    confidences = confidence_of(logits, temperature or 1.0).tolist()
    lines = [
        json.dumps(
            {"path": file, "class": class_names[index], "confidence": confidence, "model": model}
        )
        + "\n"
        for file, index, confidence in zip(
            files, logits.argmax(axis=1).tolist(), confidences, strict=True
        )
    ]

    return write_atomically(path, "".join(lines))
