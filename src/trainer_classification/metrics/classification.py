"""Compute classification metrics from labels and predictions, with numpy only.

The names and definitions of precision, recall and F1 and of their averages are
those of `ClassificationMetrics` in Hafnia's SDK 0.8.6: macro averages run over
all classes of the task, and whatever would divide by zero is 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from trainer_classification.arrays import Float32, Float64, Int64
from trainer_classification.metrics.confusion import Confusion, count_cells

# Quantile of the normal distribution for an interval of 95 %.
_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of each class, in the order of the task's K classes.

    Attributes:
        support: int64 [K], images of the class.
        predicted: int64 [K], images for which the class was predicted.
        correct: int64 [K], images of the class for which it was predicted.
        accuracy: float64 [K], share of all images on which "this class or not" is
            right.
        precision: float64 [K], correct / predicted.
        recall: float64 [K], correct / support.
        f1: float64 [K], harmonic mean of precision and recall.
    """

    support: Int64
    predicted: Int64
    correct: Int64
    accuracy: Float64
    precision: Float64
    recall: Float64
    f1: Float64


def rank_labels(logits: Float32, labels: Int64) -> Int64:
    """Return how many classes are ranked before the true one: 0 where the prediction is right.

    Among equal logits the lowest index comes first, as in a stable sort of
    `-logits`. `torch.topk` has no fixed order.

    Args:
        logits: float32 [N, K], without NaN.
        labels: int64 [N]; -1 for a class that is not among the K, which is ranked
            K.

    Returns:
        int64 [N], of 0 to K.
    """
    num_classes = logits.shape[1]
    known = labels >= 0
    own = np.take_along_axis(logits, np.maximum(labels, 0)[:, None], axis=1)
    tied_before = (logits == own) & (np.arange(num_classes) < labels[:, None])
    ranks = np.count_nonzero((logits > own) | tied_before, axis=1)

    return np.where(known, ranks, num_classes).astype(np.int64)


def count_confusion(
    labels: Int64, predictions: Int64, num_classes: int, num_columns: int = 0
) -> Confusion:
    """Count how often each class was taken for each.

    Args:
        labels: int64 [N], of 0 to K - 1.
        predictions: int64 [N], of 0 to C - 1.
        num_classes: K, classes of the task.
        num_columns: C, where a model knows classes beyond those of the task,
            which come last; 0: K.

    Returns:
        int64 [K, C]: rows are the true classes, columns the predicted ones; pairs
        where K is above 1,000.
    """
    columns = num_columns or num_classes
    return count_cells(labels * columns + predictions, num_classes, columns)


def measure_classes(confusion: Confusion) -> ClassMetrics:
    """Compute the metrics of each class.

    Args:
        confusion: [K, C], of `count_confusion`.
    """
    num_classes = len(confusion)
    support = confusion.sum(axis=1)
    predicted = confusion.sum(axis=0)[:num_classes]
    correct = confusion.diagonal().copy()
    wrong_for_class = support + predicted - 2 * correct
    total = np.full(num_classes, confusion.sum())

    return ClassMetrics(
        support=support,
        predicted=predicted,
        correct=correct,
        accuracy=_divide(total - wrong_for_class, total),
        precision=_divide(correct, predicted),
        recall=_divide(correct, support),
        f1=_divide(2 * correct, support + predicted),
    )


def average_classes(confusion: Confusion, unlabeled: int = 0) -> dict[str, float]:
    """Return the nine scalars of `ClassificationMetrics` in Hafnia's SDK, under its names.

    Weighted averages weigh each class by its images, so that `recall_weighted`
    equals `accuracy`. Without images all are 0, as in the SDK.

    Args:
        confusion: [K, C], of `count_confusion`.
        unlabeled: images without a label, which are left out of the confusion
            matrix.
    """
    classes = measure_classes(confusion)
    total = int(classes.support.sum())
    values = {"accuracy": int(classes.correct.sum()) / total if total else 0.0}
    for name in ("precision", "recall", "f1"):
        values[f"{name}_macro"] = float(getattr(classes, name).mean())
    for name in ("precision", "recall", "f1"):
        weighted_sum = float(getattr(classes, name) @ classes.support)
        values[f"{name}_weighted"] = weighted_sum / total if total else 0.0
    values["n_gt_missing"] = unlabeled
    values["n_pred_missing"] = 0  # a model gives every image a class

    return values


def balanced_accuracy(confusion: Confusion) -> float:
    """Return the mean recall of the classes that have images; NaN where none has.

    It differs from `recall_macro`, in which a class without images counts as 0.
    """
    classes = measure_classes(confusion)
    present = classes.support > 0
    return float(classes.recall[present].mean()) if present.any() else math.nan


def wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson, "Probable inference", JASA 22, 1927).

    The ends are exact: 0 where nothing is right, 1 where everything is, and 0 to
    1 without images.
    """
    if count == 0:
        return 0.0, 1.0

    share = correct / count
    scale = 1 + _Z**2 / count
    center = (share + _Z**2 / (2 * count)) / scale
    reach = _Z * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2)) / scale
    low = center - reach if correct > 0 else 0.0
    high = center + reach if correct < count else 1.0

    return low, high


def accuracy_interval(confusion: Confusion) -> tuple[float, float]:
    """Return the 95 % Wilson interval of the accuracy, of `count_confusion`'s matrix."""
    return wilson_interval(int(confusion.trace()), int(confusion.sum()))


def platform_scalars(confusion: Confusion, loss: float, task: str) -> dict[str, float]:
    """Return what a run logs once at its end, of the kept model on test, by the names that Hafnia's platform compares.

    These are the nine scalars of the SDK's metrics as `<task>/<name>`,
    `test/accuracy` and `test/loss`. What cannot be measured is left out:
    everything without images, and a loss that is not finite.

    Args:
        confusion: [K, K], of `count_confusion`.
        loss: mean cross entropy.
        task: name of the classification task, such as "image_classification".
    """
    if not confusion.sum():
        return {}
    averages = average_classes(confusion)
    values = {f"{task}/{name}": value for name, value in averages.items()}
    values["test/accuracy"] = averages["accuracy"]
    if math.isfinite(loss):
        values["test/loss"] = loss
    return values


def _divide(numerator: Int64, denominator: Int64) -> Float64:
    """Divide elementwise; x / 0 is 0."""
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)
