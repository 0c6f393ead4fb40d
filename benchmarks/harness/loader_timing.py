"""Loaders of all libraries over one workload: opened one by one, then timed in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from harness import registry
from harness.measure import Turn, summarize, interleave
from harness.provenance import provenance
from harness.resources import read_files
from harness.worker_client import Failed, Outcome, WorkerClient, prelude
from harness.workload import Workload, as_arguments, write_expected

_START = "harness.registry:start"
_Answer = TypeVar("_Answer")


@dataclass
class Measured:
    """One dataset's figures.

    Attributes:
        rows: JSON types, one for each candidate.
        left_out: name -> why it has no row.
        disqualified: names of those that did not deliver what they had to, or broke.
        turns: of each candidate, round by round, for ratios.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    disqualified: list[str] = field(default_factory=list)
    turns: dict[str, list[Turn]] = field(default_factory=dict)


def measure_loaders(
    workload: Workload, names: Sequence[str], seconds: float, turns: int, cold: bool, say: Callable[[str], None]
) -> Measured:
    """Write what is missing, open each, and time all in turns.

    Args:
        workload: what they deliver.
        names: of `registry.CANDIDATES`, and of `registry.STAGES`.
        seconds, turns: the least for each.
        cold: whether to time an epoch from disk too, which opens each loader a second time.
        say: gets a line on what is being done.
    """
    result = Measured()
    write_expected(workload)
    children: dict[str, WorkerClient] = {}
    try:
        # All at once, as importing keeps every core busy; and no clock starts before the last is done.
        for name in names:
            _start(result, children, name, workload)
        say(f"importing: {', '.join(children)}")
        _of_each(result, children, list(children), WorkerClient.answer)
        read_files(registry.list_files(list(children), workload))
        rungs = [name for name in children if name in registry.STAGES]
        loaders = [name for name in children if name not in rungs]
        outcomes = _of_each(result, children, loaders, lambda child: _opened(child, cold, say))
        for name in rungs:  # all at once, as nothing but their rate in the turns is shown
            say(f"opening {name}")
            children[name].tell("first")
        _of_each(result, children, rungs, WorkerClient.answer)
        outcomes |= dict.fromkeys(rungs, Outcome())
        say("timing in turns: " + ", ".join(children))
        _take_turns(result, children, seconds, turns)
    finally:
        for child in children.values():
            child.end()
    result.rows = [_row(name, workload, outcomes[name], result.turns[name]) for name in result.turns]
    return result


def _start(result: Measured, children: dict[str, WorkerClient], name: str, workload: Workload) -> None:
    """Start one in a process of its own, with its format written; or note why it is left out."""
    if reason := registry.find_reason_left_out(name, workload):
        result.left_out[name] = reason
        return
    log = workload.folder(f"{name}.log")
    try:
        registry.write(name, workload)
    except (OSError, RuntimeError, ValueError) as error:
        _leave_out(result, children, name, error)
        return
    children[name] = WorkerClient(name, _START, {"name": name, "workload": as_arguments(workload)}, log)


def _of_each(
    result: Measured, children: dict[str, WorkerClient], names: Sequence[str], work: Callable[[WorkerClient], _Answer]
) -> dict[str, _Answer]:
    """What the work on each of these gives, one after another; those that fail are left out."""
    answers = {}
    for name in names:
        try:
            answers[name] = work(children[name])
        except Failed as error:
            _leave_out(result, children, name, error)
    return answers


def _opened(child: WorkerClient, cold: bool, say: Callable[[str], None]) -> Outcome:
    say(f"opening {child.name}")
    return prelude(child, cold)


def _leave_out(result: Measured, children: dict[str, WorkerClient], name: str, error: Exception) -> None:
    """One that failed has no row but the reason, and its process is ended."""
    result.left_out[name] = f"failed: {' '.join(str(error).split())}"
    result.disqualified.append(name)
    if name in children:
        children.pop(name).end()


def _take_turns(result: Measured, children: dict[str, WorkerClient], seconds: float, turns: int) -> None:
    """Rounds until all have enough; when one fails, it is left out and the rest begin anew."""
    while children:
        takers = {name: _Taker(child, seconds / turns) for name, child in children.items()}
        try:
            result.turns = interleave(takers, seconds, turns)
            return
        except Failed as error:
            failed = next(name for name, taker in takers.items() if taker.failed)
            _leave_out(result, children, failed, error)


class _Taker:
    """Takes turns of one candidate, and remembers whether one failed."""

    def __init__(self, child: WorkerClient, seconds: float) -> None:
        self.child, self.seconds, self.failed = child, seconds, False

    def __call__(self) -> Turn:
        self.failed = True
        turn = self.child.turn(self.seconds)
        self.failed = False
        return turn


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
        "first_epoch_images_per_second": outcome.first_epoch,
        "cold_images_per_second": outcome.cold,
        "peak_rss_mb": outcome.memory.resident,
        "memory_beyond_shards_mb": outcome.memory.private - outcome.memory_before.private,
        "checksum": outcome.checksum,
    }
    return about | summarize(turns) | before | provenance(workload.threads)
