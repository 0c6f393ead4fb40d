"""Compute the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["cosine", "triangular", "constant"]


def factor(step: int, total: int, schedule: Schedule, warmup_fraction: float) -> float:
    """Return the learning rate of a step as a fraction of its peak, in (0, 1].

    The rate rises linearly over the first `warmup_fraction` of the steps, but
    never in the last step. Then it falls linearly ("triangular", as in Smith,
    arXiv 1506.01186), falls along half a cosine (Loshchilov and Hutter, arXiv
    1608.03983), or stays ("constant").

    Args:
        step: 0 for the first, below `total`.
        total: number of steps of the training.
        schedule: shape after the warm-up.
        warmup_fraction: 0 to 1.
    """
    assert 0 <= step < total
    warmup = min(round(warmup_fraction * total), total - 1)
    if step < warmup:
        return (step + 1) / (warmup + 1)

    progress = (step - warmup) / (total - warmup)
    if schedule == "triangular":
        return 1 - progress
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1.0
