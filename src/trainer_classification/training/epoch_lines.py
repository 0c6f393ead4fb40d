"""Show an epoch to the user: a row of a table on a terminal, else a line that names its figures."""

from __future__ import annotations

from typing import Any

from trainer_classification.console import duration

_BOLD = "\x1b[1m"
_PLAIN = "\x1b[0m"
# Heading and width of each column, 80 in all.
_COLUMNS = (
    ("epoch", 9),
    ("loss", 9),
    ("accuracy", 10),
    ("val. loss", 11),
    ("accuracy", 10),
    ("img/s", 9),
    ("wait", 6),
    ("time", 8),
    ("left", 8),
)


def format_heading() -> str:
    """Return the heading of the table."""
    cells = (f"{name:>{width}}" for name, width in _COLUMNS)
    return f"{_BOLD}{''.join(cells)}{_PLAIN}"


def format_row(row: dict[str, Any], epochs: int) -> str:
    """Return the row of an epoch in the table.

    Args:
        row: of metrics.jsonl.
        epochs: of the run.
    """
    values = [
        f"{row['epoch']}/{epochs}",
        f"{row['loss_train']:.4f}",
        f"{row['accuracy_train']:.2%}",
        _format_if_there(row, "loss_validation", ".4f"),
        _format_if_there(row, "accuracy_validation", ".2%"),
        f"{row['images_per_second']:,.0f}",
        f"{row['data_wait_fraction']:.0%}",
        duration(row["seconds"], short=True),
        duration(_estimate_rest(row, epochs), short=True),
    ]
    cells = zip(values, _COLUMNS, strict=True)

    return "".join(f" {value:>{width - 1}}" for value, (_, width) in cells)


def _format_if_there(row: dict[str, Any], name: str, form: str) -> str:
    return format(row[name], form) if name in row else "-"


def format_line(row: dict[str, Any], epochs: int) -> str:
    """Return the line of an epoch, for a log.

    Args:
        row: of metrics.jsonl.
        epochs: of the run.
    """
    parts = [
        f"epoch {row['epoch']}/{epochs}",
        f"loss {row['loss_train']:.4f}",
        f"accuracy {row['accuracy_train']:.2%}",
    ]
    if "accuracy_validation" in row:
        parts.append(f"validation loss {row['loss_validation']:.4f}")
        parts.append(f"accuracy {row['accuracy_validation']:.2%}")
    parts.append(f"{row['images_per_second']:,.0f} img/s")
    parts.append(f"data-wait {row['data_wait_fraction']:.2%}")

    seconds_left = _estimate_rest(row, epochs)
    left = f", {duration(seconds_left)} left" if seconds_left else ""
    parts.append(duration(row["seconds"]) + left)

    return "  ".join(parts)


def _estimate_rest(row: dict[str, Any], epochs: int) -> float:
    return float((epochs - row["epoch"]) * row["seconds"])
