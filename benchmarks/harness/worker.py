"""The process of a candidate, kept alive and told over a pipe when to run.

So threads, imports and memory of one do not touch another, and only one runs at a time. The pipe carries a line of JSON
each way; what the libraries print goes to a log.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from dataclasses import asdict
from typing import IO, Any

import torch

from harness import delivery
from harness.delivery import Candidate, Seen
from harness.measure import Stopwatch
from harness.resources import evict, usage


class Server:
    """The process's end.

    Args:
        spec: "module:function"; the function takes the arguments of "start", does its imports, and returns
            (open, device, expected): a function that opens the candidate, where it delivers, and what it must deliver
            (None: nothing to check).
    """

    def __init__(self, spec: str) -> None:
        self.spec, self.number, self.hash, self.last = spec, 0, 0, 0.0
        self.candidate: Candidate | None = None

    def start(self, **arguments: Any) -> dict[str, Any]:
        module, function = self.spec.split(":")
        self.opened, device, self.expected = getattr(importlib.import_module(module), function)(**arguments)
        self.watch = Stopwatch(device)
        return {}

    def first(self) -> dict[str, Any]:
        self.watch.start()
        self.candidate = self.opened()
        batches = self.candidate.epoch(0)
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
        """An epoch from disk; the rate is 0 where the files stay in the page cache, as another has them mapped."""
        assert self.candidate is not None
        files = self.candidate.files
        self.candidate.close()
        self.candidate = None
        gc.collect()  # what this process has mapped would stay
        dropped = evict(files)
        self.watch.start()
        self.candidate = self.opened()
        if not dropped:
            return {"rate": 0.0}
        seen = self._epoch()
        return {"rate": seen.count / self.watch.stop()}

    def audit(self) -> dict[str, Any]:
        assert self.candidate is not None
        if self.expected is None:
            self._epoch()
            return {"checksum": ""}
        return delivery.audit(self.candidate, 0, self.expected)

    def turn(self, seconds: float) -> dict[str, Any]:
        """Epochs until `seconds` are over; a short one goes before them, untimed, as others ran meanwhile.

        One goes before them too where batches of it were made while others ran, which would be for nothing.
        """
        epochs = []
        if self.last < seconds / 4 or getattr(self.candidate, "ahead", False):
            epochs.append((self._epoch(), self.number))
        before, images, taken = usage(os.getpid()), 0, 0.0
        waited = getattr(self.candidate, "waited", 0.0)
        while taken < seconds:
            self.watch.start()
            seen = self._epoch()
            self.last = self.watch.stop()
            images, taken = images + seen.count, taken + self.last
            epochs.append((seen, self.number))
        used = usage(os.getpid()) - before
        waited = getattr(self.candidate, "waited", 0.0) - waited
        for kept, number in epochs:
            self._checked(kept, number)
        return {"images": images, "seconds": taken, "usage": asdict(used), "waited": waited}

    def _epoch(self) -> Seen:
        assert self.candidate is not None
        self.number += 1
        seen = Seen()
        for batch in self.candidate.epoch(self.number):
            seen.add(batch)
        return seen

    def _checked(self, seen: Seen, number: int) -> None:
        if self.expected is None or self.candidate is None:
            return
        hashed = delivery.check(seen, self.expected, self.candidate.planned(number))
        assert not self.expected.random or hashed != self.hash, "two epochs showed the same pixels"
        self.hash = hashed


def serve(answers: IO[str], server: Server) -> None:
    """Do what the lines on stdin say until they end."""
    for line in sys.stdin:
        request = json.loads(line)
        what = request.pop("what")
        try:
            content = getattr(server, what)(**request)
        except Exception as error:  # a candidate may fail in any way; the parent tells the user
            import traceback

            traceback.print_exc()
            content = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        answers.write(json.dumps(content) + "\n")
        answers.flush()
    if server.candidate is not None:
        server.candidate.close()


def run(spec: str, answers: int) -> None:
    """Serve a candidate; `answers` is the descriptor that its answers are written to."""
    torch.manual_seed(0)
    with os.fdopen(answers, "w") as pipe:
        serve(pipe, Server(spec))
