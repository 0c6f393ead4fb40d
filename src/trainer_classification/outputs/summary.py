"""Write `summary.json` and `metrics.jsonl`: the results of a run, for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer_classification.files import dump_json, write_atomically

FILE_NAME = "summary.json"  # written last: where it is, a run has written everything

REQUIRED = (
    "dataset",
    "loader",
    "epochs",
    "seconds_training",
    "seconds_total",
    "seconds_first_step",
    "images_per_second",
    "data_wait_fraction",
    "accuracy_test",
    "balanced_accuracy_test",
    "accuracy_validation",
    "loss_test",
    "seed",
    "device",
    "precision",
    "world_size",
    "manifest_fingerprint",
)


def write_summary(folder: Path, values: dict[str, Any]) -> Path:
    """Write `folder/summary.json` atomically.

    Values that were not measured, or are not finite, are null.
    """
    missing = [name for name in REQUIRED if name not in values]
    assert not missing, f"summary lacks {missing}"
    return write_atomically(folder / FILE_NAME, dump_json(values, indent=1) + "\n")


def write_metrics(folder: Path, history: list[dict[str, Any]]) -> Path:
    """Write `folder/metrics.jsonl` atomically: one line for each epoch, also for those before a resume."""
    return write_atomically(
        folder / "metrics.jsonl", "".join(dump_json(row) + "\n" for row in history)
    )
