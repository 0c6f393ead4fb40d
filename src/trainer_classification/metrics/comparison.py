"""Say whether two models differ on the same images by more than chance, with the standard library only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trainer_classification.arrays import Bool

# Below this many images on which exactly one model is right, the binomial
# distribution itself is summed.
_EXACT_BELOW = 25
_SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Comparison:
    """McNemar's test of two models on the same images.

    Attributes:
        only_first: images that only the first model gets right.
        only_second: images that only the second model gets right.
        images: all images, N.
        p_value: probability of such a difference or a larger one if neither model
            were better.
        method: "exact" (binomial), or "chi-square" with continuity correction.
    """

    only_first: int
    only_second: int
    images: int
    p_value: float
    method: str

    @property
    def significant(self) -> bool:
        """Return True if the difference is more than noise, at the level of 5 %."""
        return self.p_value < _SIGNIFICANCE

    def describe(self, first: str, second: str) -> str:
        """Return the result in words; `first` and `second` name the models."""
        if self.only_first == self.only_second == 0:
            return f"{first} and {second} are right on the same images: there is no difference."
        difference = (self.only_first - self.only_second) / self.images
        counts = (
            f"{self.only_first} images are classified right by {first} only, {self.only_second} by {second} only "
            f"(accuracy {difference:+.2%}; McNemar's test, {self.method}: p = {self.p_value:.2g})"
        )
        if not self.significant:
            return f"The difference is within noise: {counts}."
        better = first if difference > 0 else second

        return f"{better} is better, by more than noise: {counts}."


def compare(first_correct: Bool, second_correct: Bool) -> Comparison:
    """Test whether one of two models is right more often, by the images on which they disagree.

    Sources: McNemar, "Note on the sampling error of the difference between
    correlated proportions or percentages", Psychometrika 12, 1947; the continuity
    correction is Edwards', Psychometrika 13, 1948.

    Args:
        first_correct: bool [N], True where the first model is right.
        second_correct: bool [N], of the second model on the same images in the
            same order.

    Raises:
        ValueError: the two have different lengths.
    """
    if len(first_correct) != len(second_correct):
        raise ValueError(
            f"The models were evaluated on {len(first_correct)} and {len(second_correct)} images, but can be compared "
            f"on the same images only: evaluate both on one split."
        )
    only_first = int(np.count_nonzero(first_correct & ~second_correct))
    only_second = int(np.count_nonzero(second_correct & ~first_correct))
    exact = only_first + only_second < _EXACT_BELOW
    p_value = _exact_p(only_first, only_second) if exact else _chi_square_p(only_first, only_second)
    method = "exact" if exact else "chi-square"

    return Comparison(only_first, only_second, len(first_correct), p_value, method)


def _exact_p(first: int, second: int) -> float:
    """Return the two-sided p-value of the binomial distribution with probability 1/2."""
    count = first + second
    tail = sum(math.comb(count, k) for k in range(min(first, second) + 1))
    return min(1.0, 2 * tail / 2**count)


def _chi_square_p(first: int, second: int) -> float:
    """Return the p-value of the chi-square distribution with one degree of freedom, continuity corrected."""
    distance = max(0, abs(first - second) - 1)
    statistic = distance**2 / (first + second)
    return math.erfc(math.sqrt(statistic / 2))
