"""Running the jobs of `prepare` in processes, with a progress bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from types import ModuleType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trainer_classification.config import cpu_count
from trainer_classification.data import jobs


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
    context.set_forkserver_preload([f"trainer_classification.data.{'warm_resize' if resized else 'warm'}"])
    forkserver.ensure_running()
    return context


def run_jobs(everything: list[jobs.Job], workers: int, console: Console) -> None:
    """Run the jobs whose parts are not there yet."""
    todo = [job for job in everything if not job.stem.with_suffix(".npz").is_file()]
    total, left = (sum(len(job.files) for job in some) for some in (everything, todo))
    with progress("decoding", total, total - left, console) as advance:
        for count in _results(todo, workers or cpu_count()):
            advance(count)


@contextmanager
def progress(what: str, total: int, done: int, console: Console) -> Iterator[Callable[[int], None]]:
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


def _results(todo: list[jobs.Job], workers: int) -> Iterator[int]:
    workers = min(workers, len(todo))
    if workers <= 1:
        yield from (jobs.run_job(job) for job in todo)
        return
    with ProcessPoolExecutor(workers, start_server(todo[0].work.geometry.resized), jobs.ignore_interrupts) as pool:
        try:
            with _main_hidden():
                futures = [pool.submit(jobs.run_job, job) for job in todo]
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise ValueError(
                "A worker process was killed (out of memory?). The parts done are kept: run the same command again, "
                "perhaps with fewer --workers."
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
