"""Loaders of all libraries over one workload: opened one by one, then timed in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer_classification.bench import contestants, ladder
from trainer_classification.bench.measure import Turn, figures, interleave
from trainer_classification.bench.process import Child, Failed, Outcome, prelude
from trainer_classification.bench.provenance import provenance
from trainer_classification.bench.workload import Workload, as_arguments, write_expected

_START = "trainer_classification.bench.contestants:start"


@dataclass
class Measured:
    """One dataset's figures.

    Attributes:
        rows: JSON types, one for each contestant.
        left_out: name -> why it has no row.
        disqualified: names of those that did not deliver what they had to, or broke.
        turns: of each contestant, round by round, for ratios.
        ladders: see `ladder.py`.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    disqualified: list[str] = field(default_factory=list)
    turns: dict[str, list[Turn]] = field(default_factory=dict)
    ladders: list[ladder.Ladder] = field(default_factory=list)


def measure_loaders(
    workload: Workload, names: Sequence[str], seconds: float, turns: int, cold: bool, say: Callable[[str], None]
) -> Measured:
    """Write what is missing, open each, and time all in turns.

    Args:
        workload: what they deliver.
        names: of `contestants.CONTESTANTS`, and of `ladder.RUNGS`.
        seconds, turns: the least for each.
        cold: whether to time an epoch from disk too, which opens each loader a second time.
        say: gets a line on what is being done.
    """
    result, write_expected_once = Measured(), workload.folder("expected.json")
    if not write_expected_once.is_file():
        write_expected(workload)
    children: dict[str, Child] = {}
    outcomes: dict[str, Outcome] = {}
    try:
        for name in names:
            reason = contestants.reason_left_out(name, workload)
            if reason:
                result.left_out[name] = reason
                continue
            say(f"opening {name}")
            try:
                contestants.write(name, workload)
                children[name] = _child(name, workload)
                outcomes[name] = prelude(children[name], cold)
            except (Failed, OSError, RuntimeError, ValueError) as error:
                _leave_out(result, children, name, error)
        say("timing in turns: " + ", ".join(children))
        _take_turns(result, children, seconds, turns)
    finally:
        for child in children.values():
            child.end()
    result.rows = [_row(name, workload, outcomes[name], result.turns[name]) for name in result.turns]
    return result


def _child(name: str, workload: Workload) -> Child:
    log = workload.folder(f"{name}.log")
    return Child(name, _START, {"name": name, "workload": as_arguments(workload)}, log)


def _leave_out(result: Measured, children: dict[str, Child], name: str, error: Exception) -> None:
    result.left_out[name] = f"failed: {' '.join(str(error).split())}"
    result.disqualified.append(name)
    if name in children:
        children.pop(name).end()


def _take_turns(result: Measured, children: dict[str, Child], seconds: float, turns: int) -> None:
    """Rounds until all have enough; one that fails is left out, and the rest begin anew."""
    while children:
        running = dict(children)
        failed: list[tuple[str, Exception]] = []

        def turn_of(child: Child, failed: list[tuple[str, Exception]] = failed) -> Callable[[], Turn]:
            def take() -> Turn:
                try:
                    return child.turn(seconds / turns)
                except Failed as error:
                    failed.append((child.name, error))
                    raise

            return take

        try:
            result.turns = interleave({name: turn_of(child) for name, child in running.items()}, seconds, turns)
            return
        except Failed:
            for name, error in failed:
                _leave_out(result, children, name, error)


def _row(name: str, workload: Workload, outcome: Outcome, turns: list[Turn]) -> dict[str, Any]:
    of, policy = workload.manifest, workload.policy
    about = {
        "dataset": of.dataset,
        "loader": name,
        "images": workload.count,
        "image_size": workload.image_size,
        "batch_size": workload.batch_size,
        "device": workload.device,
        "crop": policy.crop,
        "flip": policy.flip,
    }
    before = {
        "first_batch_seconds": outcome.first_batch_seconds,
        "import_seconds": outcome.import_seconds,
        "first_epoch_images_per_second": outcome.first_epoch,
        "cold_images_per_second": outcome.cold,
        "peak_rss_mb": outcome.memory.resident,
        "memory_beyond_shards_mb": outcome.memory.private - outcome.memory_before.private,
        "checksum": outcome.checksum,
    }
    return about | figures(turns) | before | provenance(workload.threads)


def log_of(workload: Workload, name: str) -> Path:
    """What a contestant printed."""
    return workload.folder(f"{name}.log")
