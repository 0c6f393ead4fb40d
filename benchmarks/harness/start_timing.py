"""Time a command's start: CPU seconds and seconds until the first step of a training, beside `import torch` alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

IMPORT_TORCH = ("-c", "import torch, os; os._exit(0)")
# Ends the process where the first step would begin. Nothing of ours is imported before
# train.py asks for it: it freezes the garbage collector when its imports are done.
_TO_FIRST_STEP = """
import gc, os, runpy, sys
sys.argv = sys.argv[1:]
def end_at_step():
    from trainer_classification.training.step import Step
    Step.__call__ = lambda *_: os._exit(0)
gc.freeze = end_at_step
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class Start:
    """What a process took from its start to its end.

    Attributes:
        seconds: by the clock.
        cpu_seconds: of all its threads.
    """

    seconds: float
    cpu_seconds: float


def first_step(tree: Path, options: Sequence[str]) -> list[str]:
    """Return the arguments for Python that start train.py of a working tree and end with its first step."""
    return ["-c", _TO_FIRST_STEP, str(tree / "scripts/train.py"), *options]


def time_process(arguments: Sequence[str], environment: Mapping[str, str]) -> Start:
    """Run Python with some arguments, and return what it took.

    Raises:
        RuntimeError: it fails; with the last lines that it wrote.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env=dict(environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines = process.stderr.read().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode:
        raise RuntimeError("\n".join(lines[-5:]))
    return Start(time.perf_counter() - started, usage.ru_utime + usage.ru_stime)
