"""What the cases are made with: a folder, the commands, and what these have written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared/cases"
IMAGES = SHARED / "images"
GENERATORS = SHARED / "datasets"
QUICK = (
    "--model",
    "resnet-small",
    "--batch-size",
    "20",
    "--learning-rate",
    "0.1",
    "--device",
    "cpu",
    "--loader",
    "resident",
)


class TooLongError(Exception):
    """A case has reached its time limit."""


@dataclass(frozen=True)
class Case:
    """An input and what is right.

    Attributes:
        name: of the input, and of what is done with it.
        expected: the right value, in words.
        check: gives whether that came out, and what did.
        limit: seconds.
    """

    name: str
    expected: str
    check: Callable[[Workbench], tuple[bool, str]]
    limit: float = 300


@dataclass(frozen=True)
class Done:
    """A command that has ended; `text` is all that it said."""

    code: int
    text: str

    @property
    def crashed(self) -> bool:
        """Whether a traceback was shown, or a signal ended it."""
        return "Traceback (most recent call last)" in self.text or self.code < 0

    @property
    def last(self) -> str:
        """The exit code and the line that tells most: an error, else the last one."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("Error", "error")) or "Error:" in line]
        shown = (errors or lines or [""])[-1]
        return f"exit {self.code}{', traceback' if self.crashed else ''}: {shown[:200]}"

    def says(self, *words: str) -> bool:
        """Whether one line or sentence of the text has all the words, in either case."""
        return any(all(word.lower() in line.lower() for word in words) for line in self.text.splitlines())


@dataclass(frozen=True)
class Prepared:
    """What prepare has written.

    Attributes:
        done: the command.
        manifest: `manifest.json`; empty if there is none.
        files: split -> file -> name of its class.
        sizes: file -> width and height in px.
    """

    done: Done
    manifest: dict[str, Any] = field(default_factory=dict)
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def used(self, name: str) -> bool:
        """Whether an image of that file name is in a split."""
        return any(Path(file).name == name for files in self.files.values() for file in files)

    def left_out(self, name: str) -> bool:
        """Whether an image is listed as bad, or named by the command, while the others were prepared."""
        listed = any(Path(entry["file"]).name == name for entry in self.manifest.get("skipped", []))
        return bool(self.manifest) and not self.used(name) and (listed or name in self.done.text)

    def count(self, *splits: str) -> int:
        """Number of images in the splits; of all where none is named."""
        return sum(len(files) for split, files in self.files.items() if not splits or split in splits)


class Workbench:
    """A folder in which a case runs commands until its deadline.

    Args:
        folder: empty.
        deadline: by `time.monotonic`.
    """

    def __init__(self, folder: Path, deadline: float) -> None:
        self.folder = folder
        self.deadline = deadline

    def start(self, *command: str, env: dict[str, str] | None = None, log: str = "log") -> subprocess.Popen[bytes]:
        """Start a command in the folder; its output goes to the file `log`."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HAFNIA", "MDI", "MLFLOW"))}
        paths = [str(ROOT / "src"), str(GENERATORS)]
        kept |= {
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONDONTWRITEBYTECODE": "",
            "OMP_WAIT_POLICY": "PASSIVE",
            "COLUMNS": "400",
        }
        for name, value in (env or {}).items():
            kept[name] = value
        kept = {key: value for key, value in kept.items() if value}
        with (self.folder / log).open("wb") as output:
            return subprocess.Popen(
                command, cwd=self.folder, env=kept, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip

    def wait(self, process: subprocess.Popen[bytes], log: str = "log") -> Done:
        """Wait for a command; at the deadline its process group is killed.

        Raises:
            TooLongError: the deadline has come.
        """
        try:
            code = process.wait(max(1.0, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise TooLongError from None
        finally:
            self.kill(process)
        return Done(code, (self.folder / log).read_text(errors="replace"))

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """End a command and all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def run(self, *command: str, env: dict[str, str] | None = None) -> Done:
        """Run a command to its end."""
        return self.wait(self.start(*command, env=env))

    def generate(self, name: str, *arguments: str) -> None:
        """Run a generator of ../shared/cases/datasets; it writes ./out."""
        done = self.run(sys.executable, str(GENERATORS / f"{name}.py"), *arguments)
        assert done.code == 0, done.text[-500:]

    def make(self, code: str) -> None:
        """Run a line of Python that calls the generators' helper, `make`."""
        done = self.run(sys.executable, "-c", f"import make; {code}")
        assert done.code == 0, done.text[-500:]

    def prepare_command(self, dataset: str, *options: str) -> list[str]:
        """Return a command line of prepare."""
        script = [sys.executable, str(ROOT / "scripts/prepare.py"), "--dataset", dataset]
        return [*script, "--out", "prepared", "--workers", "1", *options]

    def prepare(self, dataset: str, *options: str) -> Prepared:
        """Prepare a dataset and read what was written."""
        done = self.run(*self.prepare_command(dataset, "--formats", "array", *options))
        return self.read(done, "prepared")

    def read(self, done: Done, folder: str) -> Prepared:
        """Read the one prepared dataset below a folder, wherever it lies."""
        found = sorted((self.folder / folder).rglob("manifest.json"))
        if not found or done.code != 0:
            return Prepared(done)
        manifest = json.loads(found[-1].read_text())
        classes = manifest["class_names"]
        files: dict[str, dict[str, str]] = {}
        sizes: dict[str, tuple[int, int]] = {}
        for split in manifest["splits"]:
            stem = found[-1].parent / "table" / split
            names = json.loads(stem.with_name(f"{split}.files.json").read_text())
            labels = np.load(stem.with_name(f"{split}.labels.npy")).tolist()
            files[split] = {name: classes[label] for name, label in zip(names, labels, strict=True)}
            each = np.load(stem.with_name(f"{split}.sizes.npy")).tolist()
            sizes |= {Path(name).name: (size[0], size[1]) for name, size in zip(names, each, strict=True)}
        return Prepared(done, manifest, files, sizes)

    def train_command(self, dataset: str, *options: str, quick: bool = True) -> list[str]:
        """Return a command line of train; with `quick`, of a small network."""
        script = [sys.executable, str(ROOT / "scripts/train.py"), "--dataset", dataset, "--prepared", "prepared"]
        defaults = list(QUICK) if quick else ["--device", "cpu"]
        kept = [
            text
            for name, value in zip(defaults[::2], defaults[1::2], strict=True)
            if name not in options
            for text in (name, value)
        ]
        return [*script, *kept, *options]

    def train(self, dataset: str, *options: str) -> Done:
        """Train on a dataset."""
        return self.run(*self.train_command(dataset, *options))

    def runs(self) -> list[Path]:
        """Return the folders of the runs, oldest first."""
        found = {path.parent for path in self.folder.rglob("experiments/*/checkpoints")}
        return sorted(found, key=lambda path: path.stat().st_ctime_ns)

    def summary(self, run: Path) -> dict[str, Any]:
        """Return a run's summary; NaN in it is an error, as it is no JSON."""
        (found,) = run.rglob("summary.json")
        values: dict[str, Any] = json.loads(found.read_text(), parse_constant=_refuse)
        return values

    def metrics(self, run: Path) -> list[dict[str, Any]]:
        """Return a run's figures, an epoch each."""
        (found,) = run.rglob("metrics.jsonl")
        return [json.loads(line, parse_constant=_refuse) for line in found.read_text().splitlines()]


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def found_of(facts: Sequence[tuple[bool, str]]) -> tuple[bool, str]:
    """Return whether all facts are right, and the words of those that are not (of all, where they are)."""
    wrong = [text for right, text in facts if not right]
    return not wrong, "; ".join(wrong or [text for _, text in facts])
