"""Check ratios of one run against floors, for CI: between loaders, of the start, of a busy machine, of precisions.

The floors are far below what a quiet machine measures (docs and
benchmarks/results). Noise does not fail a build, but a kernel that lost its
vectorization or a loader that lost its threads does. A ratio needs both of its
loaders installed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.intervals import ratio_interval


@dataclass(frozen=True)
class Floor:
    """A ratio to keep: `ours` is at least `least` times as fast as `theirs`."""

    ours: str
    theirs: str
    least: float


# For the repeated samples. Whole datasets on a quiet machine have to reach
# several times as much.
FLOORS = {
    "caltech-101": (
        Floor("resident", "ffcv-vendor-raw", 2.0),
        Floor("resident", "dali-vendor", 5.0),
        Floor("resident", "torch", 8.0),
        Floor("ffcv", "ffcv-vendor-jpg", 1.0),
        Floor("dali", "dali-vendor", 0.6),
    ),
    "cifar100": (Floor("resident", "ffcv-vendor-raw", 2.0), Floor("resident", "torch", 20.0)),
}


@dataclass(frozen=True)
class FloorCheck:
    """A floor and the measured ratio.

    The upper end of the interval counts, so noise alone breaks no floor.
    """

    floor: Floor
    median: float
    high: float

    @property
    def kept(self) -> bool:
        """True if the ratio may still be above its floor."""
        return self.high >= self.floor.least

    def __str__(self) -> str:
        verdict = "kept" if self.kept else "BROKEN"
        ratio = (
            f"{self.floor.ours} / {self.floor.theirs}: {self.median:.2f}x (up to {self.high:.2f})"
        )
        return f"{ratio}, floor {self.floor.least}x: {verdict}"


def check_floors(dataset: str, rates: Mapping[str, Sequence[float]]) -> list[FloorCheck]:
    """Check each floor of a dataset whose two loaders were measured.

    Args:
        dataset: name of the dataset.
        rates: loader -> images a second of each turn, all of the same rounds.
    """
    checks = []
    for floor in FLOORS.get(dataset, ()):
        if floor.ours in rates and floor.theirs in rates:
            ratio = ratio_interval(rates[floor.ours], rates[floor.theirs])
            checks.append(FloorCheck(floor, ratio.median, ratio.high))

    return checks


@dataclass(frozen=True)
class Limit:
    """A ratio beside loaders, and how far it may go.

    Attributes:
        name: what is compared with what.
        value: measured.
        least: that it must reach; -inf: any.
        most: that it may reach; inf: any.
    """

    name: str
    value: float
    least: float = -math.inf
    most: float = math.inf

    @property
    def kept(self) -> bool:
        """True if the ratio is within its limits."""
        return self.least <= self.value <= self.most

    def __str__(self) -> str:
        limit = f"floor {self.least:g}x" if self.least > -math.inf else f"at most {self.most:g}x"
        return f"{self.name}: {self.value:.2f}x, {limit}: {'kept' if self.kept else 'BROKEN'}"


# Of the CPU time of `import torch`: 1.11 was measured on a quiet machine, 1.31 on a busy
# one and 1.48 before kernels were loaded without the compiler. The least of the rounds
# counts.
_MOST_START = 2.0
# Of the rate with threads that spin, in the same run: 3.0 to 9.9 was measured. The share
# of the fair rate says more of the processor: 0.57 on one, 0.19 on one six times as fast.
_LEAST_BUSY = 2.0
# Of fp32's rate, for the precision that auto takes: less than a tenth is noise.
_LEAST_AUTO = 0.9


def check_start(first_steps: Sequence[float], imports: Sequence[float]) -> Limit:
    """Check the CPU seconds to the first step of a prepared dataset, of rounds in turns with `import torch`."""
    ratio = min(ours / torch for ours, torch in zip(first_steps, imports, strict=True))
    return Limit("CPU time to the first step / import torch", ratio, most=_MOST_START)


def check_busy(slept: float, spun: float) -> Limit:
    """Check how many times as fast a training beside others is as one whose idle threads spin."""
    return Limit(
        "img/s on a busy machine / with threads that spin", slept / spun, least=_LEAST_BUSY
    )


def check_auto_precision(chosen: float, fp32: float) -> Limit:
    """Check that the precision that auto takes is no slower than fp32, from the shortest step of each."""
    return Limit("step in fp32 / in the precision of auto", fp32 / chosen, least=_LEAST_AUTO)
