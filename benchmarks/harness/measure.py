"""The one way anything is timed here: turns, interleaved, each a rate with what it used and a check of what it did.

A candidate (a loader, a ceiling, a format of prepare, a training step) takes short turns, A B C A B C, so that drift
of the machine hits all alike. A turn lasts at least `seconds / count`; there are turns until both `seconds` and `count`
are reached. What is reported is the median over the turns with its 95 % interval.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.intervals import Interval, median_interval
from harness.resources import Usage

COUNT = 7  # turns; six is the least with which the interval can reach 95 %


@dataclass(frozen=True)
class Turn:
    """What one turn did.

    Attributes:
        images: delivered, decoded, trained on, ...
        seconds: they took.
        usage: CPU and bytes read, children included.
        waited: of `seconds`, those in which the device had nothing to do but to wait for a batch, where it trains.
    """

    images: int
    seconds: float
    usage: Usage
    waited: float = 0.0

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds


def interleave(
    candidates: Mapping[str, Callable[[], Turn]], seconds: float, count: int = COUNT
) -> dict[str, list[Turn]]:
    """Turns A B C A B C, until each candidate has `count` turns and `seconds`."""
    turns: dict[str, list[Turn]] = {name: [] for name in candidates}
    while any(len(done) < count or sum(turn.seconds for turn in done) < seconds for done in turns.values()):
        for name, take in registry.items():
            turns[name].append(take())
    return turns


def summarize(turns: Sequence[Turn]) -> dict[str, Any]:
    """images_per_second with low and high (its interval), turns, seconds, and what a thousand images cost."""
    rate = median_interval([turn.rate for turn in turns])
    thousands = sum(turn.images for turn in turns) / 1000
    return named(rate) | {
        "confidence": rate.confidence,
        "turns": len(turns),
        "seconds": sum(turn.seconds for turn in turns),
        "images_counted": sum(turn.images for turn in turns),
        "cpu_seconds_per_1k": sum(turn.usage.cpu_seconds for turn in turns) / thousands,
        "read_kb_per_image": sum(turn.usage.read_calls for turn in turns) / thousands / 1e6,
        "disk_kb_per_image": sum(turn.usage.read_disk for turn in turns) / thousands / 1e6,
    }


def named(rate: Interval) -> dict[str, float]:
    """A rate as the rows name it."""
    return {"images_per_second": rate.median, "low": rate.low, "high": rate.high}


class Stopwatch:
    """Seconds of work on a device: CUDA events where it is a GPU, the clock elsewhere."""

    def __init__(self, device: torch.device) -> None:
        cuda: Any = torch.cuda  # its events have no types
        self._events = [cuda.Event(enable_timing=True) for _ in range(2)] if device.type == "cuda" else []
        self._started = 0.0

    def start(self) -> None:
        """Begin, with an idle device."""
        if self._events:
            torch.cuda.synchronize()
            self._events[0].record()
        self._started = time.perf_counter()

    def stop(self) -> float:
        """Seconds since the start; waits for the device."""
        if not self._events:
            return time.perf_counter() - self._started
        self._events[1].record()
        torch.cuda.synchronize()
        return float(self._events[0].elapsed_time(self._events[1])) / 1000
