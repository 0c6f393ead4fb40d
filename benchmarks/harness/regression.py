"""Check ratios between loaders of one run against floors, for CI.

The floors are far below what a quiet machine measures (docs and
benchmarks/results). Noise does not fail a build, but a kernel that lost its
vectorization or a loader that lost its threads does. A ratio needs both of its
loaders installed.
"""

from __future__ import annotations

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
