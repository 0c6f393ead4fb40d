"""Measure how far confidences can be believed, and correct them by a temperature, with numpy only.

Source of both: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural
Networks", arXiv 1706.04599.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from trainer_classification.arrays import Bool, Float32, Float64, Int64

_Number = TypeVar("_Number", bound=np.generic)

BINS = 15
# A network trained with label smoothing is corrected by some 0.3 to 0.9, one
# trained without by some 1 to 5.
MINIMUM_TEMPERATURE = 0.2
MAXIMUM_TEMPERATURE = 20.0

_ROWS = 4096  # rows in float64 at a time: 50,000 images of 1,000 classes would be 400 MB
_ITERATIONS = 100
_TOLERANCE = 1e-12


@dataclass(frozen=True)
class TemperatureFit:
    """A temperature, and what it does to the images it was fitted on.

    Attributes:
        temperature: logits are divided by it; 1.0 where there is nothing to fit.
        loss_before: mean cross entropy at temperature 1; NaN without images.
        loss_after: mean cross entropy at `temperature`; NaN without images.
        note: why the temperature is a bound or 1.0, in a sentence; "" where it is
            the best one.
    """

    temperature: float
    loss_before: float
    loss_after: float
    note: str = ""


def softmax(logits: Float32, temperature: float = 1.0) -> Float64:
    """Return probabilities in float64.

    Args:
        logits: float32 [N, K], finite.
        temperature: positive.

    Returns:
        float64 [N, K], rows summing to 1.
    """
    scaled = logits.astype(np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))

    return exponentials / exponentials.sum(axis=1, keepdims=True)


def confidence_of(logits: Float32, temperature: float = 1.0) -> Float64:
    """Return the probability of the most likely class of each image: float64 [N]."""
    blocks = [softmax(block, temperature).max(axis=1) for block in _blocks(logits)]
    return np.concatenate(blocks) if blocks else np.zeros(0)


def cross_entropy(
    logits: Float32, labels: Int64, temperature: float = 1.0, weights: Float64 | None = None
) -> float:
    """Return the mean cross entropy in nats, computed in float64; NaN without images.

    Args:
        logits: float32 [N, K], finite.
        labels: int64 [N].
        temperature: positive.
        weights: float64 [N], of the images in the mean; None: all 1.
    """
    if not len(labels):
        return math.nan
    weights = np.ones(len(labels)) if weights is None else weights
    total = 0.0
    blocks = zip(_blocks(logits), _blocks(labels), _blocks(weights), strict=True)
    for logits_block, labels_block, weights_block in blocks:
        scaled = _subtract_own(logits_block, labels_block) / temperature
        highest = scaled.max(axis=1)
        losses = highest + np.log(np.exp(scaled - highest[:, None]).sum(axis=1))
        total += float((losses * weights_block).sum())

    return total / float(weights.sum())


def calibration_error(confidences: Float64, correct: Bool, bins: int = BINS) -> float:
    """Return the expected calibration error: the mean distance of confidence from accuracy over bins of confidence.

    Bin m of M holds the confidences above (m - 1) / M, up to and including m / M.
    Each bin weighs as its images do.

    Args:
        confidences: float64 [N], of 0 to 1, of the predicted classes.
        correct: bool [N], True where the prediction is right.
        bins: M, of equal width.

    Returns:
        0 to 1; NaN without images.
    """
    if not len(confidences):
        return math.nan
    found = bin_confidences(confidences, correct, bins)
    gaps = np.abs(found.confidences - found.accuracies)

    return float(np.nansum(found.counts * gaps)) / len(confidences)


@dataclass(frozen=True)
class ReliabilityBins:
    """Images in M bins of equal width by the confidence in their predicted class, the lowest first.

    Attributes:
        counts: int64 [M], images.
        confidences: float64 [M], their mean confidence; NaN without images.
        accuracies: float64 [M], share of them that is right; NaN without images.
    """

    counts: Int64
    confidences: Float64
    accuracies: Float64


def bin_confidences(confidences: Float64, correct: Bool, bins: int = BINS) -> ReliabilityBins:
    """Sort images into bins by their confidence, as `calibration_error` does.

    Args:
        confidences: float64 [N], of 0 to 1, of the predicted classes.
        correct: bool [N], True where the prediction is right.
        bins: M, of equal width.
    """
    index = np.clip(np.ceil(confidences * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    filled = np.where(counts > 0, counts, np.nan)

    return ReliabilityBins(
        counts.astype(np.int64),
        np.bincount(index, weights=confidences, minlength=bins) / filled,
        np.bincount(index, weights=correct, minlength=bins) / filled,
    )


def fit_temperature(
    logits: Float32, labels: Int64, weights: Float64 | None = None
) -> TemperatureFit:
    """Fit the temperature with the lowest cross entropy.

    Give it validation images, never those of test.

    The cross entropy is convex in the inverse of the temperature, so its slope
    has one root. Newton's method finds it, kept between bounds that close in on
    the root.

    Args:
        logits: float32 [N, K], finite.
        labels: int64 [N].
        weights: float64 [N], of the images in the mean; None: all 1.
    """
    loss_before = cross_entropy(logits, labels, weights=weights)
    if not len(labels):
        return TemperatureFit(
            1.0, loss_before, loss_before, "There are no validation images to fit a temperature on."
        )
    if not np.ptp(logits, axis=1).any():
        return TemperatureFit(
            1.0, loss_before, loss_before, "All classes have equal logits: no temperature matters."
        )

    exact = np.ones(len(labels)) if weights is None else weights
    temperature = 1 / _root_of_slope(logits, labels, exact)
    note = ""
    if temperature == MINIMUM_TEMPERATURE:
        note = (
            f"The temperature is the lower bound, {MINIMUM_TEMPERATURE:g}: the {len(labels)} validation images are "
            f"(nearly) all right, so that the best one would be smaller still."
        )
    if temperature == MAXIMUM_TEMPERATURE:
        note = (
            f"The temperature is the upper bound, {MAXIMUM_TEMPERATURE:g}: on validation the model's confidence says "
            f"next to nothing."
        )
    loss_after = cross_entropy(logits, labels, temperature, weights)

    return TemperatureFit(temperature, loss_before, loss_after, note)


def _root_of_slope(logits: Float32, labels: Int64, image_weights: Float64) -> float:
    """Return the inverse temperature at which the slope of the cross entropy is 0, or the bound nearest to it."""
    low = 1 / MAXIMUM_TEMPERATURE
    high = 1 / MINIMUM_TEMPERATURE
    # The upper end first: where all images are right by far, the slope underflows
    # to 0 at both.
    if _slope_and_curvature(logits, labels, image_weights, high)[0] <= 0:
        return high
    if _slope_and_curvature(logits, labels, image_weights, low)[0] >= 0:
        return low

    inverse = 1.0
    for _ in range(_ITERATIONS):
        slope, curvature = _slope_and_curvature(logits, labels, image_weights, inverse)
        low = inverse if slope < 0 else low
        high = inverse if slope >= 0 else high
        candidate = inverse - slope / curvature if curvature > 0 else high
        if not low < candidate < high:
            candidate = (low + high) / 2
        if abs(candidate - inverse) <= _TOLERANCE * inverse:
            break
        inverse = candidate

    return inverse


def _slope_and_curvature(
    logits: Float32, labels: Int64, image_weights: Float64, inverse: float
) -> tuple[float, float]:
    """Return the first and second derivative of the summed cross entropy by the inverse temperature."""
    slope = 0.0
    curvature = 0.0
    blocks = zip(_blocks(logits), _blocks(labels), _blocks(image_weights), strict=True)
    for logits_block, labels_block, weights_block in blocks:
        relative = _subtract_own(logits_block, labels_block)
        exponents = relative * inverse
        weights = np.exp(exponents - exponents.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        means = (weights * relative).sum(axis=1)
        slope += float((weights_block * means).sum())
        spread = (weights * (relative - means[:, None]) ** 2).sum(axis=1)
        curvature += float((weights_block * spread).sum())

    return slope, curvature


def _subtract_own(logits: Float32, labels: Int64) -> Float64:
    """Return the logits in float64, relative to that of the true class: [N, K]."""
    exact = logits.astype(np.float64)
    return exact - np.take_along_axis(exact, labels[:, None], axis=1)


def _blocks(array: npt.NDArray[_Number]) -> Iterator[npt.NDArray[_Number]]:
    """Yield the rows in blocks."""
    for start in range(0, len(array), _ROWS):
        yield array[start : start + _ROWS]
