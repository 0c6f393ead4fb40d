"""The worker process of one candidate: it stays alive, and is told over a pipe when to run.

So threads, imports and memory of one candidate do not touch another, and only one
runs at a time. The pipe carries one line of JSON each way. What the libraries
print goes to a log.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
import traceback
from dataclasses import asdict
from typing import IO, Any

import torch

from harness import delivery
from harness.delivery import Candidate, Seen
from harness.measure import Stopwatch
from harness.resources import evict, usage


class Server:
    """Answer the requests for one candidate.

    Each request calls the method of its name.

    Args:
        spec: "module:function". The function takes the arguments of "start", does
            the imports, and returns (open, device, expected): a function that
            opens the candidate, the device it delivers to, and what it must
            deliver (None: nothing to check).
    """

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self.candidate: Candidate | None = None
        self.number = 0  # of the last epoch
        self.last = 0.0  # seconds that it took
        self.hash = 0  # of its pixels

    def start(self, **arguments: Any) -> dict[str, Any]:
        """Import the candidate's libraries."""
        module, function = self.spec.split(":")
        self.open, device, self.expected = getattr(importlib.import_module(module), function)(
            **arguments
        )
        self.watch = Stopwatch(device)
        return {}

    def first(self) -> dict[str, Any]:
        """Open the candidate, and time its first batch and its first epoch."""
        self.watch.start()
        self.candidate = self.open()
        batches = self.candidate.epoch(0)
        seen = Seen()
        seen.add(next(batches))
        first_batch = self.watch.stop()

        started = time.perf_counter() - first_batch
        for batch in batches:
            seen.add(batch)
        self.last = time.perf_counter() - started
        self._check(seen, 0)

        return {"first": first_batch, "rate": seen.count / self.last}

    def cold(self) -> dict[str, Any]:
        """Time an epoch from disk.

        The rate is 0 where the files stay in the page cache, as another process
        has them memory-mapped.
        """
        assert self.candidate is not None
        files = self.candidate.files
        self.candidate.close()
        self.candidate = None
        gc.collect()  # otherwise memory maps of this process would keep the pages
        dropped = evict(files)

        self.watch.start()
        self.candidate = self.open()
        if not dropped:
            return {"rate": 0.0}
        seen = self._run_epoch()

        return {"rate": seen.count / self.watch.stop()}

    def audit(self) -> dict[str, Any]:
        """Check every pixel of an epoch that is not timed."""
        assert self.candidate is not None
        if self.expected is None:
            self._run_epoch()
            return {"checksum": ""}
        return delivery.audit(self.candidate, 0, self.expected)

    def turn(self, seconds: float) -> dict[str, Any]:
        """Time epochs until `seconds` have passed.

        An epoch that is not timed comes first where epochs are short, since
        others ran in between. It also comes first where the candidate made
        batches while others ran, which would count as made in no time.
        """
        epochs = []
        if self.last < seconds / 4 or getattr(self.candidate, "works_ahead", False):
            epochs.append((self._run_epoch(), self.number))

        before = usage(os.getpid())
        waited_before = getattr(self.candidate, "waited", 0.0)
        images = 0
        taken = 0.0
        while taken < seconds:
            self.watch.start()
            seen = self._run_epoch()
            self.last = self.watch.stop()
            images += seen.count
            taken += self.last
            epochs.append((seen, self.number))
        used = usage(os.getpid()) - before
        waited = getattr(self.candidate, "waited", 0.0) - waited_before

        for seen, number in epochs:
            self._check(seen, number)

        return {"images": images, "seconds": taken, "usage": asdict(used), "waited": waited}

    def _run_epoch(self) -> Seen:
        assert self.candidate is not None
        self.number += 1
        seen = Seen()
        for batch in self.candidate.epoch(self.number):
            seen.add(batch)
        return seen

    def _check(self, seen: Seen, number: int) -> None:
        if self.expected is None or self.candidate is None:
            return
        pixel_hash = delivery.check(seen, self.expected, self.candidate.planned(number))
        assert not self.expected.random or pixel_hash != self.hash, (
            "two epochs showed the same pixels"
        )
        self.hash = pixel_hash


def serve(answers: IO[str], server: Server) -> None:
    """Answer the requests on stdin until it ends."""
    for line in sys.stdin:
        request = json.loads(line)
        what = request.pop("what")
        try:
            content = getattr(server, what)(**request)
        except Exception as error:  # a candidate may fail in any way; the benchmark tells the user
            traceback.print_exc()
            content = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        answers.write(json.dumps(content) + "\n")
        answers.flush()
    if server.candidate is not None:
        server.candidate.close()


def run(spec: str, answers: int) -> None:
    """Serve one candidate.

    Args:
        spec: see `Server`.
        answers: descriptor of the pipe that takes its answers.
    """
    torch.manual_seed(0)
    with os.fdopen(answers, "w") as pipe:
        serve(pipe, Server(spec))
