"""Rank single images by what a model says of them: sure mistakes, unsure hits, and labels that are likely wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer_classification.arrays import Bool, Float32, Float64, Int64
from trainer_classification.metrics.calibration import softmax

_ROWS = 4096  # rows of logits in float64 at a time


@dataclass(frozen=True)
class ImageScores:
    """What a model says of the N images of a split, in the order of the samples.

    Attributes:
        split: name of the split.
        labels: int64 [N].
        predictions: int64 [N], the likeliest class.
        confidences: float64 [N], its probability, with the temperature.
        plain_confidences: float64 [N], its probability without the temperature.
        label_probabilities: float64 [N], probability of the label, with the
            temperature.
    """

    split: str
    labels: Int64
    predictions: Int64
    confidences: Float64
    plain_confidences: Float64
    label_probabilities: Float64

    @property
    def correct(self) -> Bool:
        """True where the prediction is the label: bool [N]."""
        return self.predictions == self.labels


def score_images(
    split: str, logits: Float32, labels: Int64, temperature: float | None
) -> ImageScores:
    """Compute the scores of the images of a split.

    Args:
        split: its name.
        logits: float32 [N, K], finite.
        labels: int64 [N].
        temperature: that the logits are divided by; None: 1.
    """
    count = len(labels)
    confidences = np.zeros(count)
    plain = np.zeros(count)
    of_labels = np.zeros(count)
    for start in range(0, count, _ROWS):
        rows = slice(start, start + _ROWS)
        plain[rows] = softmax(logits[rows]).max(axis=1)
        probabilities = softmax(logits[rows], temperature or 1.0)
        confidences[rows] = probabilities.max(axis=1)
        of_labels[rows] = np.take_along_axis(probabilities, labels[rows, None], axis=1)[:, 0]
    predictions = logits.argmax(axis=1).astype(np.int64)

    return ImageScores(split, labels, predictions, confidences, plain, of_labels)


def rank_mistakes(scores: ImageScores) -> Int64:
    """Return the images that are classified wrong, those with the highest confidence first: int64 [M]."""
    wrong = np.flatnonzero(~scores.correct)
    return wrong[np.argsort(-scores.confidences[wrong], kind="stable")]


def rank_unsure_hits(scores: ImageScores) -> Int64:
    """Return the images that are classified right, those with the lowest confidence first: int64 [M]."""
    right = np.flatnonzero(scores.correct)
    return right[np.argsort(scores.confidences[right], kind="stable")]


def find_label_errors(splits: list[ImageScores]) -> list[tuple[ImageScores, int]]:
    """Return (scores of its split, image) where the label is likely wrong, the most confident first.

    An image counts if the model is at least as sure of another class as it is, on
    average, of the images with that class as their label (the off-diagonal of the
    confident joint; Northcutt, Jiang, Chuang, "Confident Learning", JAIR 70, 2021,
    arXiv 1911.00068). A model that is unsure of a class thus needs less confidence.

    Args:
        splits: whose images the model was not trained on.
    """
    thresholds = _mean_self_confidence(splits)
    found = []
    for scores in splits:
        is_suspect = ~scores.correct & (scores.confidences >= thresholds[scores.predictions])
        found += [(scores, int(image)) for image in np.flatnonzero(is_suspect)]

    return sorted(found, key=lambda entry: -entry[0].confidences[entry[1]])


def _mean_self_confidence(splits: list[ImageScores]) -> Float64:
    """Return the mean probability of each class over the images with that label; infinite without images."""
    if not splits:
        return np.zeros(0)
    labels = np.concatenate([scores.labels for scores in splits])
    predictions = np.concatenate([scores.predictions for scores in splits])
    probabilities = np.concatenate([scores.label_probabilities for scores in splits])
    size = int(max(labels.max(initial=0), predictions.max(initial=0))) + 1
    counts = np.bincount(labels, minlength=size)
    sums = np.bincount(labels, weights=probabilities, minlength=size)

    return np.divide(sums, counts, out=np.full(size, np.inf), where=counts > 0)
