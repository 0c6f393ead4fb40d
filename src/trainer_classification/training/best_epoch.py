"""Choose the epoch whose weights are kept: the latest of those that are equally good on validation.

With few validation images many epochs are equal, and the later ones are better on
other images: the learning rate is lower there, and an average of the weights is
over more steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from trainer_classification.metrics.classification import average_classes
from trainer_classification.training.evaluate import Evaluation

BestBy = Literal["accuracy", "balanced", "f1", "loss"]

# The column of metrics.jsonl that each value of --best-by compares.
_COLUMNS: dict[BestBy, str] = {
    "accuracy": "accuracy_validation",
    "balanced": "balanced_accuracy_validation",
    "f1": "f1_macro_validation",
    "loss": "loss_validation",
}


def measure_validation(result: Evaluation, best_by: BestBy) -> dict[str, float]:
    """Return the columns of metrics.jsonl for an evaluation on validation: loss, accuracy, and what is compared."""
    values = {"loss_validation": result.loss, "accuracy_validation": result.accuracy}
    if best_by == "balanced":
        values[_COLUMNS[best_by]] = result.balanced_accuracy
    if best_by == "f1":
        values[_COLUMNS[best_by]] = average_classes(result.confusion)["f1_macro"]
    return values


def score_epoch(row: dict[str, Any], best_by: BestBy) -> float:
    """Return how good an epoch is.

    Args:
        row: of metrics.jsonl.
        best_by: what is compared.

    Returns:
        0 or more, higher is better; without validation the number of the epoch;
        -inf if its loss is not finite.
    """
    if "loss_validation" not in row:
        return float(row["epoch"])

    loss = row["loss_validation"]
    if loss is None or not math.isfinite(loss):
        return -math.inf
    return math.exp(-loss) if best_by == "loss" else float(row[_COLUMNS[best_by]])


def describe_choice(history: Sequence[dict[str, Any]], best_epoch: int, best_by: BestBy) -> str:
    """Say which epoch is kept, and why.

    Args:
        history: rows of metrics.jsonl.
        best_epoch: number of the epoch that is kept, from 1.
        best_by: what was compared.
    """
    row = history[best_epoch - 1]
    if "loss_validation" not in row:
        return f"Kept: epoch {best_epoch}, the last, since there are no validation images."

    score = score_epoch(row, best_by)
    equal = sum(score_epoch(other, best_by) == score for other in history)
    reason = (
        f"the latest of {equal} epochs with this value"
        if equal > 1
        else "no other epoch is as good"
    )
    name = _COLUMNS[best_by].removesuffix("_validation").replace("_", " ")

    return f"Kept: epoch {best_epoch}, validation {name} {row[_COLUMNS[best_by]]:.4f}, {reason}."
