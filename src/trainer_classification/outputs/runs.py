"""List the runs below a folder by their summaries."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer_classification.files import parse_json
from trainer_classification.names import one_line, printable
from trainer_classification.outputs.summary import FILE_NAME

_COLUMNS = ("dataset", "network", "accuracy", "low", "high", "seconds", "folder")
_LARGEST = 1e12  # of a number that a table shows


@dataclass(frozen=True)
class Run:
    """A run, as far as its summary tells.

    Attributes:
        folder: of the run.
        dataset: its name; "" if the run has not finished.
        network: its name; "" where an older run does not tell.
        accuracy: on test, of 0 to 1; None without a test split.
        interval: 95 % interval of the accuracy; None where it is not known.
        seconds: of the whole command; None if it has not finished.
    """

    folder: Path
    dataset: str = ""
    network: str = ""
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    seconds: float | None = None


def find_runs(folder: Path) -> list[Run]:
    """Return the runs in `folder/experiments`, the oldest first.

    Raises:
        ValueError: there are none.
    """
    found = [path for path in (folder / "experiments").glob("*") if (path / "checkpoints").is_dir()]
    if not found:
        raise ValueError(
            f"There is no run in {folder / 'experiments'}: train one with python scripts/train.py, or name the folder "
            f"with --output-dir."
        )
    return [_read_run(path) for path in sorted(found)]


def _read_run(folder: Path) -> Run:
    try:
        summary: Any = parse_json((folder / "data" / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Run(folder)
    if not isinstance(summary, dict):
        return Run(folder)

    return Run(
        folder=folder,
        dataset=str(summary.get("dataset", "")),
        network=printable(str(summary.get("model", ""))),
        accuracy=_read_number(summary.get("accuracy_test")),
        interval=_read_interval(summary.get("accuracy_test_interval")),
        seconds=_read_number(summary.get("seconds_total")),
    )


def _read_number(value: Any) -> float | None:
    """Return a number of a summary; None for what is none."""
    is_number = isinstance(value, int | float) and abs(value) < _LARGEST
    return float(value) if is_number else None


def _read_interval(value: Any) -> tuple[float, float] | None:
    """Return the ends of an interval of a summary; None for what is none."""
    ends = [_read_number(end) for end in value] if isinstance(value, list) else []
    low, high = ends if len(ends) == 2 else (None, None)
    return None if low is None or high is None else (low, high)


def format_table(runs: Sequence[Run]) -> list[str]:
    """Return a line for each run, below a line of headings."""
    head = ("dataset", "network", "accuracy on test", "95 % interval", "seconds", "folder")
    rows = [head, *map(_describe, runs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]

    return ["  ".join(_pad(row, widths)).rstrip() for row in rows]


def _describe(run: Run) -> tuple[str, ...]:
    if run.seconds is None:
        return ("not finished", "", "", "", "", printable(str(run.folder)))
    interval = "" if run.interval is None else f"{run.interval[0]:.2%} to {run.interval[1]:.2%}"
    return (
        one_line(run.dataset, 30),
        run.network,
        "no test split" if run.accuracy is None else f"{run.accuracy:.2%}",
        interval,
        f"{run.seconds:,.1f}",
        printable(str(run.folder)),
    )


def _pad(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Return the cells in columns; seconds stand at the right."""
    return [
        cell.rjust(width) if column == 4 else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def format_csv(runs: Sequence[Run]) -> str:
    """Return CSV with a line of column names; cells that are not known are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for run in runs:
        low, high = run.interval or ("", "")
        accuracy = "" if run.accuracy is None else run.accuracy
        seconds = "" if run.seconds is None else run.seconds
        names = (printable(run.dataset), run.network)
        writer.writerow((*names, accuracy, low, high, seconds, printable(str(run.folder))))

    return text.getvalue()
