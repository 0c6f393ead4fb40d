"""Each contestant in a process of its own, kept alive and told over a pipe when to run.

So threads, imports and memory of one do not touch another, and only one runs at a time. The pipe carries a line of JSON
each way; what the libraries print goes to a log.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from trainer_classification.bench import delivery
from trainer_classification.bench.delivery import Contestant, Seen
from trainer_classification.bench.measure import Stopwatch, Turn
from trainer_classification.bench.resources import Memory, Usage, evict, memory, usage

_POLL = 0.1  # seconds between looks at the memory, in untimed epochs


class Failed(Exception):  # noqa: N818  (says what became of a contestant)
    """A contestant could not be measured; the text says why."""


@dataclass
class Outcome:
    """What happened before the turns.

    Attributes:
        first_batch_seconds: from there to the first batch, files in the page cache.
        first_epoch, cold: images a second of the first epoch (compilation included), and of one with a newly opened
            loader and no file in the page cache.
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


class Child:
    """The parent's end: starts the process and tells it what to do.

    Args:
        name: of the contestant.
        spec: "module:function" that opens it from `arguments`, imported in the process.
        arguments: JSON types.
        log: file for what it prints.

    The first `answer` says that its imports are done.
    """

    def __init__(self, name: str, spec: str, arguments: dict[str, Any], log: Path) -> None:
        self.name, self.log = name, log
        self._answers, theirs = os.pipe()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trainer_classification.bench.process", str(theirs), spec],
                stdin=subprocess.PIPE, stdout=output, stderr=output, pass_fds=(theirs,), text=True,
            )  # fmt: skip
        os.close(theirs)
        self._lines: IO[str] = os.fdopen(self._answers)
        self.tell("start", **arguments)

    def tell(self, what: str, **details: Any) -> None:
        """Ask for something, and do not wait."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"what": what} | details) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer says what became of it

    def answer(self) -> dict[str, Any]:
        """Wait for what was asked for.

        Raises:
            Failed: it did not succeed.
        """
        line = self._lines.readline()
        if not line:
            raise Failed(f"the process ended ({self._process.wait()}): {_tail(self.log)}")
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
        content = self.ask("turn", seconds=seconds)
        return Turn(content["images"], content["seconds"], Usage(**content["usage"]), content["waited"])

    def audit(self) -> tuple[str, Memory]:
        """The untimed epoch: its checksum, and the most memory it took."""
        with _watched(self._process.pid) as most:
            checksum = self.ask("audit")["checksum"]
        return checksum, most[0]

    def memory(self) -> Memory:
        """Now."""
        return memory(self._process.pid)

    def end(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self.tell("end")
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._lines.close()
        assert self._process.stdin is not None
        self._process.stdin.close()


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


def prelude(child: Child, cold: bool) -> Outcome:
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


class Server:
    """The process's end.

    Args:
        spec: "module:function"; the function takes the arguments of "start", does its imports, and returns
            (open, device, expected): a function that opens the contestant, where it delivers, and what it must deliver
            (None: nothing to check).
    """

    def __init__(self, spec: str) -> None:
        self.spec, self.number, self.hash, self.last = spec, 0, 0, 0.0
        self.contestant: Contestant | None = None

    def start(self, **arguments: Any) -> dict[str, Any]:
        module, function = self.spec.split(":")
        self.opened, device, self.expected = getattr(importlib.import_module(module), function)(**arguments)
        self.watch = Stopwatch(device)
        return {}

    def first(self) -> dict[str, Any]:
        self.watch.start()
        self.contestant = self.opened()
        batches = self.contestant.epoch(0)
        seen = Seen()
        seen.add(next(batches))
        first = self.watch.stop()
        started = time.perf_counter() - first
        for batch in batches:
            seen.add(batch)
        self.last = time.perf_counter() - started
        self._checked(seen, 0)
        return {"first": first, "rate": seen.count / self.last}

    def cold(self) -> dict[str, Any]:
        assert self.contestant is not None
        self.contestant.close()
        evict(self.contestant.files)
        self.watch.start()
        self.contestant = self.opened()
        seen = self._epoch()
        return {"rate": seen.count / self.watch.stop()}

    def audit(self) -> dict[str, Any]:
        assert self.contestant is not None
        if self.expected is None:
            self._epoch()
            return {"checksum": ""}
        return delivery.audit(self.contestant, 0, self.expected)

    def turn(self, seconds: float) -> dict[str, Any]:
        """Epochs until `seconds` are over; a short one goes before them, untimed, as others ran meanwhile."""
        if self.last < seconds / 4:
            self._checked(self._epoch(), self.number)
        before, images, taken = usage(os.getpid()), 0, 0.0
        waited = getattr(self.contestant, "waited", 0.0)
        epochs = []
        while taken < seconds:
            self.watch.start()
            seen = self._epoch()
            self.last = self.watch.stop()
            images, taken = images + seen.count, taken + self.last
            epochs.append((seen, self.number))
        used = usage(os.getpid()) - before
        waited = getattr(self.contestant, "waited", 0.0) - waited
        for kept, number in epochs:
            self._checked(kept, number)
        return {"images": images, "seconds": taken, "usage": asdict(used), "waited": waited}

    def _epoch(self) -> Seen:
        assert self.contestant is not None
        self.number += 1
        seen = Seen()
        for batch in self.contestant.epoch(self.number):
            seen.add(batch)
        return seen

    def _checked(self, seen: Seen, number: int) -> None:
        if self.expected is None or self.contestant is None:
            return
        hashed = delivery.check(seen, self.expected, self.contestant.planned(number))
        assert not self.expected.random or hashed != self.hash, "two epochs showed the same pixels"
        self.hash = hashed


def serve(answers: IO[str], server: Server) -> None:
    """Do what the lines on stdin say until they end, or "end" comes."""
    for line in sys.stdin:
        request = json.loads(line)
        what = request.pop("what")
        if what == "end":
            break
        try:
            content = getattr(server, what)(**request)
        except Exception as error:  # a contestant may fail in any way; the parent tells the user
            import traceback

            traceback.print_exc()
            content = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        answers.write(json.dumps(content) + "\n")
        answers.flush()
    if server.contestant is not None:
        server.contestant.close()


if __name__ == "__main__":
    torch.manual_seed(0)
    with os.fdopen(int(sys.argv[1]), "w") as pipe:
        serve(pipe, Server(sys.argv[2]))
