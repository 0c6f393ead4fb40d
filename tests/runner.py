"""Run the trainer's commands in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

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
]  # as --name value


def newest_checkpoint(folder: Path) -> Path:
    """The checkpoint below a folder of outputs that was written last."""
    return max(folder.glob("experiments/*/checkpoints/last.pth"), key=lambda path: path.stat().st_mtime_ns)


class Runner:
    """`scripts/train.py` with a folder of its own."""

    def __init__(self, folder: Path, dataset: Path) -> None:
        self.folder, self.dataset = folder, dataset
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("HAFNIA", "MDI", "MLFLOW"))}

    def command(self, *options: str) -> list[str]:
        script = [sys.executable, str(ROOT / "scripts/train.py"), "--dataset", str(self.dataset)]
        pairs = zip(OPTIONS[::2], OPTIONS[1::2], strict=True)
        defaults = [text for name, value in pairs if name not in options for text in (name, value)]
        return [*script, "--prepared", str(self.folder / "prepared"), "--device", "cpu", *defaults, *options]

    def __call__(self, *options: str, code: int = 0, **environment: str) -> str:
        done = subprocess.run(
            self.command(*options),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            env=self.environment | environment,
        )
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
