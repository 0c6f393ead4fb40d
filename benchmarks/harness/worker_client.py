"""The bench's end of a candidate's process: starts it, tells it what to do, and takes what it measured."""

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

_POLL = 0.1  # seconds between looks at the memory, in untimed epochs
_PATIENCE = 20  # seconds in which a process must have ended
_LONGEST = 900  # seconds in which it must have answered: several times what any epoch here takes


class Failed(Exception):  # noqa: N818  (says what became of a candidate)
    """A candidate could not be measured; the text says why."""


@dataclass
class Outcome:
    """What happened before the turns.

    Attributes:
        first_batch_seconds: from there to the first batch, files in the page cache.
        first_epoch, cold: images a second of the first epoch (compilation included), and of one with a newly opened
            loader and no file in the page cache (0: not measured).
        memory: at the highest, in an untimed epoch.
        memory_before: after the imports.
        checksum: of what the untimed epoch delivered.
    """

    first_batch_seconds: float = 0.0
    first_epoch: float = 0.0
    cold: float = 0.0
    memory: Memory = field(default_factory=Memory)
    memory_before: Memory = field(default_factory=Memory)
    checksum: str = ""


class WorkerClient:
    """The parent's end: starts the process and tells it what to do.

    Args:
        name: of the candidate.
        spec: "module:function" that opens it from `arguments`, imported in the process.
        arguments: JSON types.
        log: file for what it prints.

    The first `answer` says that its imports are done.
    """

    def __init__(self, name: str, spec: str, arguments: dict[str, Any], log: Path) -> None:
        self.name, self.log = name, log
        theirs, self._requests = os.pipe()
        answers, answered = os.pipe()
        with log.open("wb") as output:
            self.pid = get_fork_server().fork(spec, (theirs, answered, output.fileno()))
        os.close(theirs)
        os.close(answered)
        self._answers: IO[bytes] = os.fdopen(answers, "rb", buffering=0)  # so that `select` sees all there is
        self.tell("start", **arguments)

    def tell(self, what: str, **details: Any) -> None:
        """Ask for something, and do not wait."""
        with suppress(BrokenPipeError):  # the answer says what became of it
            os.write(self._requests, (json.dumps({"what": what} | details) + "\n").encode())

    def answer(self, seconds: float = 0) -> dict[str, Any]:
        """Wait for what was asked for, which takes at least so many seconds.

        Raises:
            Failed: it did not succeed, or hangs, and is killed then.
        """
        if not select.select([self._answers], [], [], seconds + _LONGEST)[0]:
            os.kill(self.pid, signal.SIGKILL)
            raise Failed(f"the process did not answer within {seconds + _LONGEST:g} seconds, and was killed")
        line = self._answers.readline()
        if not line:
            raise Failed(f"the process ended ({self.code}): {_tail(self.log)}")
        content = json.loads(line)
        if "failed" in content:
            raise Failed(content["failed"])
        return dict(content)

    def ask(self, what: str, **details: Any) -> dict[str, Any]:
        """Ask and wait."""
        self.tell(what, **details)
        return self.answer()

    def turn(self, seconds: float) -> Turn:
        """One turn of at least so many seconds, checked."""
        self.tell("turn", seconds=seconds)
        content = self.answer(seconds)
        return Turn(content["images"], content["seconds"], Usage(**content["usage"]), content["waited"])

    def audit(self) -> tuple[str, Memory]:
        """The untimed epoch: its checksum, and the most memory it took."""
        with _watched(self.pid) as most:
            checksum = self.ask("audit")["checksum"]
        return checksum, most[0]

    def memory(self) -> Memory:
        """Now."""
        return memory(self.pid)

    def end(self) -> None:
        """End the process."""
        os.close(self._requests)
        if not select.select([self._answers], [], [], _PATIENCE)[0]:
            os.kill(self.pid, signal.SIGKILL)
        _ = self.code
        self._answers.close()

    @cached_property
    def code(self) -> int:
        """Exit code, or minus the signal that ended it; waits for that."""
        return get_fork_server().wait(self.pid)


@contextmanager
def _watched(pid: int) -> Iterator[list[Memory]]:
    """The most memory used within, as the only item of a list."""
    most, done = [memory(pid)], threading.Event()

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


def _tail(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


def prelude(child: WorkerClient, cold: bool) -> Outcome:
    """What comes before the turns: first batch, first epoch, cold epoch, and the untimed look at every pixel.

    Raises:
        Failed: it could not be opened, or did not deliver what it had to.
    """
    outcome = Outcome(memory_before=child.memory())
    first = child.ask("first")
    outcome.first_batch_seconds, outcome.first_epoch = first["first"], first["rate"]
    if cold:
        outcome.cold = child.ask("cold")["rate"]
    outcome.checksum, outcome.memory = child.audit()
    return outcome
