"""Compute medians with confidence intervals, for few samples of unknown distribution."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A median, the order statistics around it, and the probability that these enclose the true median."""

    median: float
    low: float
    high: float
    confidence: float


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return the median and its interval from order statistics.

    The k-th least and k-th greatest of n independent samples enclose the median
    with probability 1 - 2 P(Binomial(n, 1/2) < k), whatever the distribution
    (Conover, "Practical nonparametric statistics", 1999, section 3.2). The
    largest k that reaches `confidence` is taken. Below six samples none does, and
    the interval is from the least to the greatest, with the confidence that this
    gives.
    """
    ordered = sorted(values)
    count = len(values)
    k = 1
    below = 0.5**count  # P(Binomial < k)
    while 1 - 2 * (below + math.comb(count, k) * 0.5**count) >= confidence:
        below += math.comb(count, k) * 0.5**count
        k += 1

    return Interval(
        statistics.median(ordered), ordered[k - 1], ordered[count - k], max(0.0, 1 - 2 * below)
    )


def ratio_interval(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Return how many times faster ours is, from rates of the same rounds.

    What slows a whole round cancels out.
    """
    return median_interval([mine / other for mine, other in zip(ours, theirs, strict=True)])
