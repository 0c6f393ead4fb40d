"""Running the jobs of `prepare` in processes, with a progress bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trainer_classification.config import cpu_count
from trainer_classification.data import jobs

Job = tuple[list[str], jobs.Work, Path]
_PRELOADED = ["trainer_classification.data.warm"]


@cache
def start_server() -> BaseContext:
    """Start the process that workers are forked from, ahead of need: it imports what they want while others work.

    Not this process itself: threads of torch, polars and numba do not survive a fork.
    """
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    from multiprocessing import forkserver

    context = get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    forkserver.ensure_running()
    return context


def run_jobs(files: list[str], work: jobs.Work, folder: Path, workers: int, console: Console) -> list[Path]:
    """Run the jobs whose parts are not there yet; returns the stems of all parts, in order."""
    starts = range(0, len(files), jobs.SIZE)
    stems = [folder / f"{number:06d}" for number in range(len(starts))]
    todo = [
        (files[start : start + jobs.SIZE], work, stem)
        for start, stem in zip(starts, stems, strict=True)
        if not stem.with_suffix(".npz").is_file()
    ]
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not sys.stderr.isatty()) as progress:
        done = len(files) - sum(len(names) for names, *_ in todo)
        bar = progress.add_task("decoding", total=len(files), completed=done, rate="")
        started, here = time.perf_counter(), 0
        for count in _results(todo, workers or cpu_count()):
            here += count
            progress.update(bar, advance=count, rate=f"{here / (time.perf_counter() - started):,.0f} img/s")
    return stems


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Workers would import the program's main module again, which may take seconds or start it anew: none is needed."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _results(todo: list[Job], workers: int) -> Iterator[int]:
    workers = min(workers, len(todo))
    if workers <= 1:
        yield from (jobs.run_job(*job) for job in todo)
        return
    with ProcessPoolExecutor(workers, start_server(), jobs.ignore_interrupts) as pool:
        try:
            with _main_hidden():
                futures = [pool.submit(jobs.run_job, *job) for job in todo]
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise ValueError(
                "A worker process was killed (out of memory?). The parts done are kept: run the same command again, "
                "perhaps with fewer --workers."
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
