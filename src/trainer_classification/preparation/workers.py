"""The processes of `prepare`, and its progress bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence, Sized
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from types import ModuleType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trainer_classification.environment import cpu_count
from trainer_classification.preparation import job as jobs

Piece = TypeVar("Piece", bound=Sized)
Result = TypeVar("Result")


@cache
def start_server(resized: bool) -> BaseContext:
    """Start the process that workers are forked from: it imports what they want once for all.

    Not this process itself: threads of torch, polars and numba do not survive a fork. What resizes is loaded only
    where images are `resized`: once a machine it is compiled, for some seconds.
    """
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    from multiprocessing import forkserver

    context = get_context("forkserver")
    context.set_forkserver_preload([f"trainer_classification.preparation.{'preload_resize' if resized else 'preload'}"])
    forkserver.ensure_running()
    return context


class Workers:
    """Processes for the work of `prepare`, forked when there is some; a context manager.

    With one of them, or for a single piece of work, this process does it.

    Args:
        count: of the processes; 0: as many as there are CPUs.
        resized: of the images, see `start_server`.
        console: gets a progress bar.
    """

    def __init__(self, count: int, resized: bool, console: Console) -> None:
        self._count, self._resized, self._console = count or cpu_count(), resized, console
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise ValueError(
                "A worker process was killed (out of memory?). The parts done are kept: run the same command again, "
                "perhaps with fewer --workers."
            ) from None

    def run(
        self, what: str, function: Callable[[Piece], Result], pieces: Sequence[Piece], done: int = 0
    ) -> list[Result]:
        """What the function makes of each piece of work, in their order.

        Args:
            what: names the progress bar.
            function: of a module, as is all that processes are asked for.
            pieces: begun in this order; the length of each is its images.
            done: images that were done before.

        Raises:
            Exception: as the function does.
        """
        with _progress(what, done + sum(len(piece) for piece in pieces), done, self._console) as advance:
            results = []
            for piece, result in zip(pieces, self._map(function, pieces), strict=True):
                results.append(result)
                advance(len(piece))
            return results

    def _map(self, function: Callable[[Piece], Result], pieces: Sequence[Piece]) -> Iterator[Result]:
        if min(self._count, len(pieces)) <= 1:
            return map(function, pieces)
        if self._executor is None:
            self._executor = ProcessPoolExecutor(self._count, start_server(self._resized), jobs.begin_worker)
        with _main_hidden():
            return self._executor.map(function, pieces)


@contextmanager
def _progress(what: str, total: int, done: int, console: Console) -> Iterator[Callable[[int], None]]:
    """A progress bar with its rate of images, on a terminal; yields what counts further images."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not sys.stderr.isatty()) as bars:
        bar = bars.add_task(what, total=total, completed=done, rate="")
        started, here = time.perf_counter(), 0

        def advance(count: int) -> None:
            nonlocal here
            here += count
            bars.update(bar, advance=count, rate=f"{here / (time.perf_counter() - started):,.0f} img/s")

        yield advance


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Workers would import the program's main module again, which may take seconds or start it anew: none is needed."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
