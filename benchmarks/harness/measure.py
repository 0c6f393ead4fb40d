"""Time candidates in turns.

This is the only way in which the benchmarks time anything.

A candidate (a loader, a reference rate, a format of prepare, a training step)
takes short turns, A B C A B C, so that drift of the machine's speed affects all
alike. A turn lasts at least `seconds / count`, and turns go on until both
`seconds` and `count` are reached. The result is the median over the turns with
its 95 % interval.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.intervals import median_interval
from harness.resources import Usage

COUNT = 7  # turns; six is the least with which the interval can reach 95 %


@dataclass(frozen=True)
class Turn:
    """The work of one turn.

    Attributes:
        images: images delivered, decoded or trained on.
        seconds: how long that took.
        usage: CPU seconds and bytes read, child processes included.
        waited: seconds in which a training device had nothing to do, waiting for
            a batch.
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
    """Take turns A B C A B C until each candidate has `count` turns and `seconds` of them."""
    turns: dict[str, list[Turn]] = {name: [] for name in candidates}
    while any(
        len(done) < count or sum(turn.seconds for turn in done) < seconds for done in turns.values()
    ):
        for name, take_turn in candidates.items():
            turns[name].append(take_turn())
    return turns


def summarize(turns: Sequence[Turn]) -> dict[str, Any]:
    """Return the columns that every row has: the rate with its interval, and what a thousand images cost."""
    rate = median_interval([turn.rate for turn in turns])
    images = sum(turn.images for turn in turns)
    thousands = images / 1000

    return {
        "images_per_second": rate.median,
        "low": rate.low,
        "high": rate.high,
        "confidence": rate.confidence,
        "turns": len(turns),
        "seconds": sum(turn.seconds for turn in turns),
        "images_counted": images,
        "cpu_seconds_per_1k": sum(turn.usage.cpu_seconds for turn in turns) / thousands,
        "read_kb_per_image": sum(turn.usage.read_calls for turn in turns) / thousands / 1e6,
        "disk_kb_per_image": sum(turn.usage.read_disk for turn in turns) / thousands / 1e6,
    }


class Stopwatch:
    """Measure the seconds of work on a device: by CUDA events on a GPU, by the clock elsewhere."""

    def __init__(self, device: torch.device) -> None:
        cuda: Any = torch.cuda  # its events are untyped
        self._events = (
            [cuda.Event(enable_timing=True) for _ in range(2)] if device.type == "cuda" else []
        )
        self._started = 0.0

    def start(self) -> None:
        """Start, after the device has become idle."""
        if self._events:
            torch.cuda.synchronize()
            self._events[0].record()
        self._started = time.perf_counter()

    def stop(self) -> float:
        """Wait for the device and return the seconds since the start."""
        if not self._events:
            return time.perf_counter() - self._started
        self._events[1].record()
        torch.cuda.synchronize()
        return float(self._events[0].elapsed_time(self._events[1])) / 1000
