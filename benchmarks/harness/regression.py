"""The floors that ratios between loaders may not fall below, all measured in one run; for CI.

Far below what is measured on a quiet machine (docs and benchmarks/results), so that noise does not fail a build, but a
kernel that lost its vectorisation, or a loader that lost its threads, does. Ratios need engines that are installed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.intervals import ratio_interval


@dataclass(frozen=True)
class Floor:
    """At least `least` times as fast."""

    ours: str
    theirs: str
    least: float


# On the bundled samples, repeated. Of whole datasets on a quiet machine, several times as much is asked for.
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
    """A floor, and what was measured: the upper end of the interval counts, so that doubt is for us."""

    floor: Floor
    median: float
    high: float

    @property
    def kept(self) -> bool:
        """Whether the ratio may still be above its floor."""
        return self.high >= self.floor.least

    def __str__(self) -> str:
        verdict = "kept" if self.kept else "BROKEN"
        ours, theirs = self.floor.ours, self.floor.theirs
        return f"{ours} / {theirs}: {self.median:.2f}x (up to {self.high:.2f}), floor {self.floor.least}x: {verdict}"


def check_floors(dataset: str, rates: Mapping[str, Sequence[float]]) -> list[FloorCheck]:
    """Each floor of a dataset whose two loaders were measured; rates of both in the same rounds."""
    found = []
    for floor in FLOORS.get(dataset, ()):
        if floor.ours in rates and floor.theirs in rates:
            ratio = ratio_interval(rates[floor.ours], rates[floor.theirs])
            found.append(FloorCheck(floor, ratio.median, ratio.high))
    return found
