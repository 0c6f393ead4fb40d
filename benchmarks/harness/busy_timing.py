"""Time trainings beside processes that keep the CPUs busy, in this working tree and at another commit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from trainer_classification.environment import cpu_count

ROOT = Path(__file__).parents[2]
_SPIN_COUNT = "300000"  # libgomp's, where nothing is said
# Ends with the process that started it, however that ends.
_SPIN = "while kill -0 $PPID; do i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; done"


def fair_share(others: int, threads: int = 0) -> float:
    """Return the part of its CPU time that each thread of a training keeps beside spinning processes.

    Args:
        others: spinning processes.
        threads: of the training; 0: one for each CPU.
    """
    threads = threads or cpu_count()
    return min(1.0, cpu_count() / (threads + others))


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """Check a commit out into a temporary folder, and yield it; "": this working tree."""
    if not commit:
        yield ROOT
        return
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run(
            [*git, "add", "--quiet", "--detach", str(tree), commit], check=True, capture_output=True
        )
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True, capture_output=True)


@contextmanager
def spinning(count: int) -> Iterator[None]:
    """Keep the CPUs busy with some processes."""
    with ExitStack() as stack:
        for _ in range(count):
            process = stack.enter_context(subprocess.Popen(["sh", "-c", _SPIN]))
            stack.callback(process.kill)
        yield


def train(
    tree: Path, options: list[str], folder: Path, others: int, *, spins: bool = False
) -> float:
    """Run train.py of a working tree; the other processes start with the first step and end with the last epoch.

    Args:
        tree: with the sources.
        options: of train.py.
        folder: for what the training prepares and writes; the prepared dataset is kept.
        others: processes that spin meanwhile.
        spins: let idle threads of torch spin, for as long as libgomp does by default.

    Returns:
        Images a second of training.
    """
    environment = {name: text for name, text in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment["PYTHONPATH"] = str(tree / "src")
    if spins:
        environment["GOMP_SPINCOUNT"] = _SPIN_COUNT
    with tempfile.TemporaryDirectory() as outputs, ExitStack() as stack:
        command = [sys.executable, str(tree / "scripts/train.py"), *options]
        command += ["--device", "cpu", "--prepared", str(folder), "--output-dir", outputs]
        process = stack.enter_context(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
            )
        )
        stack.callback(process.kill)
        assert process.stderr is not None
        lines = []
        spinners = ExitStack()
        stack.enter_context(spinners)
        for line in process.stderr:
            lines.append(line)
            if line.startswith("Recipe:"):
                spinners.enter_context(spinning(others))
            if line.startswith("Kept:"):
                spinners.close()
        if process.wait():
            raise RuntimeError("".join(lines[-5:]))
        summary = next(Path(outputs).glob("experiments/*/data/summary.json"))
        return float(json.loads(summary.read_text(encoding="utf-8"))["images_per_second"])
