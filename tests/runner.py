"""Run the trainer's commands in processes of their own."""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from forked_commands import ForkedCommands

ROOT = Path(__file__).parents[1]

OPTIONS = [
    "--model",
    "resnet-small",
    "--batch-size",
    "16",
    "--learning-rate",
    "0.1",
    "--epochs",
    "3",
    "--amp",
    "off",  # a CPU that is faster in bf16 has the figures of any other
]  # as --name value


def newest_checkpoint(folder: Path) -> Path:
    """The checkpoint below a folder of outputs that was written last."""
    return max(folder.glob("experiments/*/checkpoints/last.pth"), key=lambda path: path.stat().st_mtime_ns)


@cache
def _forked_commands() -> ForkedCommands:
    """The server of all runners of this process; it ends with it."""
    server = ForkedCommands()
    atexit.register(server.close)
    return server


def run_forked(
    folder: Path, script: str, *arguments: str, environment: dict[str, str], timeout: float = 300.0
) -> subprocess.CompletedProcess[str]:
    """Run a script to its end, forked from a process that has imported torch and the rest.

    Args:
        folder: to run in.
        script: its name, as "train".
        arguments: of the script.
        environment: all of its variables.
        timeout: seconds after which it is killed.
    """
    with tempfile.TemporaryDirectory() as streams:
        code, _ = _forked_commands().run(
            folder, script, *arguments, kill_after=timeout, streams=Path(streams), environment=environment
        )
        stdout, stderr = (Path(streams, name).read_text() for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess([script, *arguments], code, stdout, stderr)


class Runner:
    """`scripts/train.py` with a folder of its own."""

    is_forked = True  # False: each run starts an interpreter

    def __init__(self, folder: Path, dataset: Path) -> None:
        self.folder, self.dataset = folder, dataset
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("HAFNIA", "MDI", "MLFLOW"))}

    def command(self, *options: str) -> list[str]:
        script = [sys.executable, str(ROOT / "scripts/train.py"), "--dataset", str(self.dataset)]
        pairs = zip(OPTIONS[::2], OPTIONS[1::2], strict=True)
        defaults = [text for name, value in pairs if name not in options for text in (name, value)]
        return [*script, "--prepared", str(self.folder / "prepared"), "--device", "cpu", *defaults, *options]

    def __call__(self, *options: str, code: int = 0, **environment: str) -> str:
        command = self.command(*options)
        whole = self.environment | environment
        if self.is_forked:
            done = run_forked(self.folder, "train", *command[2:], environment=whole)
        else:
            done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=120, env=whole)
        assert done.returncode == code, done.stderr[-3000:]
        self.stdout = done.stdout
        return done.stderr

    @property
    def experiments(self) -> list[Path]:
        """Folders of the runs, oldest first."""
        return sorted((self.folder / ".data/experiments").iterdir(), key=lambda path: path.stat().st_ctime_ns)

    def metrics(self, experiment: Path) -> list[dict]:
        """The figures of each epoch that must repeat."""
        lines = (experiment / "data/metrics.jsonl").read_text().splitlines()
        names = ("epoch", "loss_train", "accuracy_train", "loss_validation", "accuracy_validation", "learning_rate")
        return [{name: json.loads(line)[name] for name in names} for line in lines]

    def summary(self, experiment: Path) -> dict:
        return json.loads((experiment / "data/summary.json").read_text())
