"""The worker processes of prepare, and its progress bar."""

from __future__ import annotations

import os
import sys
import threading
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

from trainer_classification.console import log
from trainer_classification.data.decode import BYTES_PER_PIXEL
from trainer_classification.environment import free_memory, spare_cpus
from trainer_classification.preparation.end_with_parent import PARENT_VARIABLE
from trainer_classification.preparation.job import begin_worker
from trainer_classification.preparation.memory import WORKER_BYTES, MemoryBudget, count_workers
from trainer_classification.preparation.remote_workers import connect

_USED_FRACTION = 0.8  # of the free memory; the rest is for this process and the page cache
_SCARCE_MEMORY = 1 << 30  # bytes
_STOP_SECONDS = 0.5
Piece = TypeVar("Piece", bound=Sized)
Result = TypeVar("Result")


@cache
def start_fork_server(resized: bool) -> BaseContext:
    """Start the process that workers are forked from, which has imported what they need.

    Workers are not forked from this process, because the threads of torch, polars
    and numba do not survive a fork.

    Args:
        resized: of the images: only these need the resize kernels, which take
            seconds to compile once a machine.
    """
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    from multiprocessing import forkserver

    preload = ["preload_resize" if resized else "preload"]
    if threading.current_thread() is threading.main_thread():
        preload.insert(0, "end_with_parent")  # the kernel means the thread that starts it
    context = get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.{name}" for name in preload])
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    try:
        forkserver.ensure_running()
    finally:
        del os.environ[PARENT_VARIABLE]

    return context


class Workers:
    """The processes that do the work of prepare.

    They start with the first work; a context manager.

    With one process, or for a single piece of work, this process does it, unless it
    is to be isolated from the work.

    Args:
        count: of the processes; 0: one for each CPU that others leave.
        resized: of the images, see `start_fork_server`.
        executor: "local", or "dask" or "ray" for the workers of a cluster.
        address: of the cluster.
        memory: bytes that local processes may take; 0: most of what is free.
    """

    def __init__(
        self,
        count: int,
        resized: bool,
        executor: str = "local",
        address: str = "",
        memory: int = 0,
    ) -> None:
        self._memory = memory or int(_USED_FRACTION * free_memory())
        self._count = count_workers(count or spare_cpus(), self._memory)
        self._resized = resized
        self._executor: ProcessPoolExecutor | None = None
        self._remote = None if executor == "local" else connect(executor, address)

    def note_memory(self, pixels: int) -> None:
        """Say how much memory an image takes where not every process can decode one at once.

        Args:
            pixels: of the largest image.
        """
        needed = BYTES_PER_PIXEL * pixels
        free = self._memory - self._count * WORKER_BYTES
        if self._remote is None and self._count > 1 and self._count * needed > free:
            log(
                f"Note: the largest image, of {pixels / 1e6:.1f} megapixels, may take {needed / 1e9:.2f} GB to decode; "
                f"{self._count} processes share {self._memory / 1e9:.1f} GB (--memory of prepare.py), so large images "
                f"wait for one another."
            )

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._executor is not None:
            if error is not None and not isinstance(error, Exception):
                _stop_processes(self._executor)  # a signal: nobody waits for running jobs
            self._executor.shutdown(wait=True, cancel_futures=True)
        if self._remote is not None:
            self._remote.close()
        if isinstance(error, BrokenProcessPool):
            raise ValueError(
                f"A worker process was killed{_explain_memory()}. Finished work is kept: run the same command again."
            ) from None

    def restart(self) -> None:
        """Forget processes of which one was killed; the next work starts others."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def run(
        self,
        title: str,
        function: Callable[[Piece], Result],
        pieces: Sequence[Piece],
        done: int = 0,
        isolated: bool = False,
        on_done: Callable[[Piece, Result], object] | None = None,
    ) -> list[Result]:
        """Call a function for each piece of work, and return the results in order.

        Args:
            title: of the progress bar.
            function: of a module, so that it can be sent to a process.
            pieces: started in this order; the length of each is its number of
                images.
            done: images that were done before.
            isolated: let no work be done by this process, which a bad image could
                kill.
            on_done: called in this process with each piece that is done, and its
                result, in order.

        Raises:
            Exception: as the function does.
        """
        total = done + sum(len(piece) for piece in pieces)
        results = []
        with _progress(title, total, done) as advance:
            for piece, result in zip(pieces, self._map(function, pieces, isolated), strict=True):
                results.append(result)
                if on_done is not None:
                    on_done(piece, result)
                advance(len(piece))

        return results

    def _map(
        self, function: Callable[[Piece], Result], pieces: Sequence[Piece], isolated: bool
    ) -> Iterator[Result]:
        if self._remote is not None:
            return self._remote.map(function, pieces)
        if not isolated and min(self._count, len(pieces)) <= 1:
            return map(function, pieces)
        if self._executor is None:
            context = start_fork_server(self._resized)
            budget = MemoryBudget(context, self._memory - self._count * WORKER_BYTES)
            self._executor = ProcessPoolExecutor(self._count, context, begin_worker, (budget,))
        with _hide_main_module():
            return self._executor.map(function, pieces)


def _stop_processes(executor: ProcessPoolExecutor) -> None:
    """Ask the processes of an executor to end, and kill those that do not."""
    processes = list((executor._processes or {}).values())  # public from Python 3.14 on
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _STOP_SECONDS
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        process.kill()


def _explain_memory() -> str:
    """Return what is to be said about memory where it is short: then a killed process is no wonder."""
    free = free_memory()
    if free > _SCARCE_MEMORY:
        return ""
    return f", with {free / 1e9:.1f} GB of memory free: use fewer --workers"


@contextmanager
def _progress(title: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal, and yield the function that counts further images."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bars:
        bar = bars.add_task(title, total=total, completed=done, rate="")
        started = time.perf_counter()
        advanced = 0

        def advance(count: int) -> None:
            nonlocal advanced
            advanced += count
            rate = advanced / (time.perf_counter() - started)
            bars.update(bar, advance=count, rate=f"{rate:,.0f} img/s")

        yield advance


@contextmanager
def _hide_main_module() -> Iterator[None]:
    """Hide the program's main module from the workers, which would import it: slow, or a second start of the program.

    They do not need it, because every function they call is in a module of its
    own.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
