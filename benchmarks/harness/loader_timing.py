"""Time the loaders of all libraries on one workload: open them one by one, then let them take turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from harness import registry
from harness.measure import Turn, interleave, summarize
from harness.provenance import provenance
from harness.resources import read_files
from harness.worker_client import CandidateError, Outcome, WorkerClient, measure_opening
from harness.workload import Workload, as_arguments, write_expected

_START = "harness.registry:start"
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Timing:
    """How long to measure.

    Attributes:
        seconds: least seconds of each candidate.
        turns: least turns of each candidate.
        cold: also time an epoch from disk, which opens each loader a second time.
    """

    seconds: float
    turns: int
    cold: bool = False


@dataclass
class Measured:
    """The results of one dataset.

    Attributes:
        rows: JSON types, one row for each candidate.
        left_out: name -> why it has no row.
        disqualified: names of those that failed, or delivered something else than
            they must.
        turns: of each candidate, round by round, for ratios.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    disqualified: list[str] = field(default_factory=list)
    turns: dict[str, list[Turn]] = field(default_factory=dict)


def measure_loaders(
    workload: Workload, names: Sequence[str], timing: Timing, say: Callable[[str], None]
) -> Measured:
    """Write the formats that are missing, open each candidate, and time all in turns.

    Args:
        workload: what they deliver.
        names: keys of `registry.CANDIDATES` and `registry.STAGES`.
        timing: how long.
        say: takes a line that says what is being done.
    """
    session = _Session(workload, say)
    write_expected(workload)
    try:
        session.start(names)
        outcomes = session.open(timing.cold)
        session.take_turns(timing.seconds, timing.turns)
    finally:
        for worker in session.workers.values():
            worker.end()

    result = session.result
    result.rows = [
        _make_row(name, workload, outcomes[name], turns) for name, turns in result.turns.items()
    ]

    return result


class _Session:
    """Hold the workers of one measurement.

    A candidate that fails is left out, with the reason, and the rest go on.
    """

    def __init__(self, workload: Workload, say: Callable[[str], None]) -> None:
        self.workload = workload
        self.say = say
        self.workers: dict[str, WorkerClient] = {}
        self.result = Measured()

    def start(self, names: Sequence[str]) -> None:
        """Start the workers, all at once, as imports keep every core busy.

        Returns when the last has imported.
        """
        for name in names:
            self._start_one(name)
        self.say(f"importing: {', '.join(self.workers)}")
        self._ask_each(list(self.workers), WorkerClient.answer)
        read_files(registry.list_files(list(self.workers), self.workload))

    def open(self, cold: bool) -> dict[str, Outcome]:
        """Open the loaders one by one.

        The stages open together, as only their rate in the turns is shown.
        """
        stages = [name for name in self.workers if name in registry.STAGES]
        loaders = [name for name in self.workers if name not in stages]

        def open_loader(worker: WorkerClient) -> Outcome:
            self.say(f"opening {worker.name}")
            return measure_opening(worker, cold)

        outcomes = self._ask_each(loaders, open_loader)
        for name in stages:
            self.say(f"opening {name}")
            self.workers[name].tell("first")
        self._ask_each(stages, WorkerClient.answer)

        return outcomes | dict.fromkeys(stages, Outcome())

    def take_turns(self, seconds: float, turns: int) -> None:
        """Run rounds until all candidates have enough.

        When one fails, it is left out and the rest start again.
        """
        self.say("timing in turns: " + ", ".join(self.workers))
        while self.workers:
            takers = {
                name: _TurnTaker(worker, seconds / turns) for name, worker in self.workers.items()
            }
            try:
                self.result.turns = interleave(takers, seconds, turns)
                return
            except CandidateError as error:
                failed = next(name for name, taker in takers.items() if taker.failed)
                self._leave_out(failed, error)

    def _start_one(self, name: str) -> None:
        reason = registry.find_reason_left_out(name, self.workload)
        if reason:
            self.result.left_out[name] = reason
            return
        try:
            registry.write(name, self.workload)
        except (OSError, RuntimeError, ValueError) as error:
            self._leave_out(name, error)
            return
        arguments = {"name": name, "workload": as_arguments(self.workload)}
        self.workers[name] = WorkerClient(
            name, _START, arguments, self.workload.folder(f"{name}.log")
        )

    def _ask_each(
        self, names: Sequence[str], ask: Callable[[WorkerClient], _Answer]
    ) -> dict[str, _Answer]:
        """Ask the workers of these names one after another, and leave out those that fail."""
        answers = {}
        for name in names:
            try:
                answers[name] = ask(self.workers[name])
            except CandidateError as error:
                self._leave_out(name, error)
        return answers

    def _leave_out(self, name: str, error: Exception) -> None:
        """Note why a candidate failed, and end its worker."""
        self.result.left_out[name] = f"failed: {' '.join(str(error).split())}"
        self.result.disqualified.append(name)
        if name in self.workers:
            self.workers.pop(name).end()


class _TurnTaker:
    """Take turns of one candidate, and remember if one failed."""

    def __init__(self, worker: WorkerClient, seconds: float) -> None:
        self.worker = worker
        self.seconds = seconds
        self.failed = False

    def __call__(self) -> Turn:
        self.failed = True
        turn = self.worker.turn(self.seconds)
        self.failed = False
        return turn


def _make_row(name: str, workload: Workload, outcome: Outcome, turns: list[Turn]) -> dict[str, Any]:
    description = {
        "dataset": workload.manifest.dataset,
        "loader": name,
        "images": workload.count,
        "image_size": workload.image_size,
        "batch_size": workload.batch_size,
        "device": workload.device,
        "crop": workload.policy.crop,
        "flip": workload.policy.flip,
    }
    before_turns = {
        "first_batch_seconds": outcome.first_batch_seconds,
        "first_epoch_images_per_second": outcome.first_epoch,
        "cold_images_per_second": outcome.cold,
        "peak_rss_mb": outcome.memory.resident,
        "memory_beyond_shards_mb": outcome.memory.private - outcome.memory_before.private,
        "checksum": outcome.checksum,
    }
    return description | summarize(turns) | before_turns | provenance(workload.threads)
