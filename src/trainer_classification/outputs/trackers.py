"""Where the metrics of a run go beside Hafnia's tracker: `--tracker tensorboard|csv`."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from trainer_classification.files import write_atomically

TENSORBOARD_FOLDER = "tensorboard"
CSV_FILE = "metrics.csv"


class Writer(Protocol):
    """A tracker; each of its functions may fail, which ends no training."""

    def scalar(self, name: str, value: float, step: int) -> None:
        """Take a metric of a step or an epoch."""

    def epochs(self, history: Sequence[dict[str, Any]]) -> None:
        """Take the rows of metrics.jsonl so far, after each epoch."""

    def configuration(self, values: dict[str, Any]) -> None:
        """Take the options and the values resolved from them."""

    def close(self) -> None:
        """End the run."""


class TensorBoardWriter:
    """Write TensorBoard's event files.

    A resumed run has a folder of its own, and its events begin where it goes on.

    Args:
        folder: for the files.
    """

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        create: Any = SummaryWriter  # it has no types
        self._writer = create(str(folder))

    def scalar(self, name: str, value: float, step: int) -> None:
        """Write a metric of a step or an epoch."""
        self._writer.add_scalar(name, value, step)

    def epochs(self, history: Sequence[dict[str, Any]]) -> None:
        """Show what was written so far to those who watch."""
        self._writer.flush()

    def configuration(self, values: dict[str, Any]) -> None:
        """Write the options as a table."""
        rows = [f"| {name} | {value} |" for name, value in values.items()]
        self._writer.add_text(
            "configuration", "\n".join(["| option | value |", "|---|---|", *rows])
        )

    def close(self) -> None:
        """Close the files."""
        self._writer.close()


class CsvWriter:
    """Write a CSV file with a row for each epoch, also for those before a resume.

    Args:
        folder: for the file.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / CSV_FILE
        self._names: dict[str, None] = {}  # columns in their order
        self._text = io.StringIO()
        self._count = 0  # rows in it

    def scalar(self, name: str, value: float, step: int) -> None:
        """Do nothing: the rows of epochs have it."""

    def epochs(self, history: Sequence[dict[str, Any]]) -> None:
        """Replace the file; a value that was not measured, or is not finite, is empty."""
        rows = history[self._count :]
        names = dict.fromkeys([*self._names, *(name for row in rows for name in row)])
        has_new_column = names != self._names
        if has_new_column:
            self._names = names
            self._text = io.StringIO()
            rows = history
        writer = csv.DictWriter(self._text, names, lineterminator="\n")
        if has_new_column:
            writer.writeheader()
        writer.writerows(rows)
        self._count = len(history)
        write_atomically(self._path, self._text.getvalue())

    def configuration(self, values: dict[str, Any]) -> None:
        """Do nothing: configuration.json has it."""

    def close(self) -> None:
        """Do nothing: the file is whole after each epoch."""


def check_tracker(name: str) -> None:
    """Raise ValueError with the way to install it if what a tracker needs is missing.

    Args:
        name: as `--tracker`.
    """
    if name == "tensorboard" and importlib.util.find_spec("tensorboard") is None:
        raise ValueError(
            "--tracker tensorboard is not installed: pip install 'trainer-classification[tensorboard]', or uv sync "
            "--extra tensorboard."
        )


def open_writer(name: str, folder: Path) -> Writer | None:
    """Open a tracker beside Hafnia's.

    Args:
        name: as `--tracker`.
        folder: of the run's data.
    """
    if name == "tensorboard":
        return TensorBoardWriter(folder / TENSORBOARD_FOLDER)
    if name == "csv":
        return CsvWriter(folder)
    return None
