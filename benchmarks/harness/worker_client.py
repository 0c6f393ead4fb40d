"""Control the worker of a candidate: start it, tell it what to do, and take what it measured."""

from __future__ import annotations

import json
import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from harness.fork_server import get_fork_server
from harness.measure import Turn
from harness.resources import Memory, Usage, memory

_POLL = 0.1  # seconds between two looks at the memory, in epochs that are not timed
_END_TIMEOUT = 20  # seconds for a worker to end
_ANSWER_TIMEOUT = 900  # seconds for an answer: several times what any epoch here takes


class CandidateError(Exception):
    """A candidate could not be measured. The text says why."""


@dataclass
class Outcome:
    """What was measured before the turns.

    Attributes:
        first_batch_seconds: from opening the loader to its first batch, with the
            files in the page cache.
        first_epoch: images a second of the first epoch, compilation included.
        cold: images a second of an epoch with a newly opened loader and no file
            in the page cache. 0: not measured.
        memory: the highest in an epoch that is not timed.
        memory_before: after the imports.
        checksum: of what that epoch delivered.
    """

    first_batch_seconds: float = 0.0
    first_epoch: float = 0.0
    cold: float = 0.0
    memory: Memory = field(default_factory=Memory)
    memory_before: Memory = field(default_factory=Memory)
    checksum: str = ""


class WorkerClient:
    """Start a worker and send it requests.

    The first `answer` says that its imports are done.

    Args:
        name: name of the candidate.
        spec: "module:function" that opens it from `arguments`. The worker imports
            the module.
        arguments: JSON types.
        log: file for what the worker prints.
    """

    def __init__(self, name: str, spec: str, arguments: dict[str, Any], log: Path) -> None:
        self.name = name
        self.log = log
        worker_stdin, self._requests = os.pipe()
        answers, worker_answers = os.pipe()
        with log.open("wb") as output:
            self.pid = get_fork_server().fork(spec, (worker_stdin, worker_answers, output.fileno()))
        os.close(worker_stdin)
        os.close(worker_answers)
        self._answers: IO[bytes] = os.fdopen(
            answers, "rb", buffering=0
        )  # unbuffered, so that `select` sees all of it
        self.tell("start", **arguments)

    def tell(self, what: str, **details: Any) -> None:
        """Send a request and do not wait."""
        with suppress(BrokenPipeError):  # the answer says what happened to the worker
            os.write(self._requests, (json.dumps({"what": what} | details) + "\n").encode())

    def answer(self, seconds: float = 0) -> dict[str, Any]:
        """Wait for the answer to the last request, which takes at least `seconds`.

        Raises:
            CandidateError: the request failed, or the worker ended, or hung and
                was killed.
        """
        timeout = seconds + _ANSWER_TIMEOUT
        if not select.select([self._answers], [], [], timeout)[0]:
            os.kill(self.pid, signal.SIGKILL)
            raise CandidateError(
                f"the worker did not answer within {timeout:g} seconds, and was killed"
            )
        line = self._answers.readline()
        if not line:
            raise CandidateError(f"the worker ended ({self.code}): {_read_last_line(self.log)}")
        content = json.loads(line)
        if "failed" in content:
            raise CandidateError(content["failed"])
        return dict(content)

    def ask(self, what: str, **details: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        self.tell(what, **details)
        return self.answer()

    def turn(self, seconds: float) -> Turn:
        """Run one checked turn of at least `seconds`."""
        self.tell("turn", seconds=seconds)
        content = self.answer(seconds)
        return Turn(
            content["images"], content["seconds"], Usage(**content["usage"]), content["waited"]
        )

    def audit(self) -> tuple[str, Memory]:
        """Run the epoch that checks every pixel.

        Returns its checksum and its highest memory.
        """
        with _watch_memory(self.pid) as most:
            checksum = self.ask("audit")["checksum"]
        return checksum, most[0]

    def memory(self) -> Memory:
        """Return the memory that the worker uses now."""
        return memory(self.pid)

    def end(self) -> None:
        """End the worker, and kill it if it does not end in time."""
        os.close(self._requests)
        if not select.select([self._answers], [], [], _END_TIMEOUT)[0]:
            os.kill(self.pid, signal.SIGKILL)
        _ = self.code
        self._answers.close()

    @cached_property
    def code(self) -> int:
        """Wait until the worker ends.

        Returns its exit code, or minus the signal that ended it.
        """
        return get_fork_server().wait(self.pid)


@contextmanager
def _watch_memory(pid: int) -> Iterator[list[Memory]]:
    """Yield a list whose only item is the highest memory of a process so far."""
    most = [memory(pid)]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_POLL):
            now = memory(pid)
            most[0] = Memory(max(most[0].resident, now.resident), max(most[0].private, now.private))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


def _read_last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


def measure_opening(worker: WorkerClient, cold: bool) -> Outcome:
    """Measure what comes before the turns: first batch, first epoch, cold epoch, and the check of every pixel.

    Raises:
        CandidateError: the candidate could not be opened, or delivered something
            else than it must.
    """
    outcome = Outcome(memory_before=worker.memory())
    first = worker.ask("first")
    outcome.first_batch_seconds = first["first"]
    outcome.first_epoch = first["rate"]
    if cold:
        outcome.cold = worker.ask("cold")["rate"]
    outcome.checksum, outcome.memory = worker.audit()

    return outcome
