"""Train with several seeds, and write accuracies and seconds to a file of results.

python benchmarks/recipe_bench.py --dataset mnist --json
benchmarks/results/recipes-2core.json python benchmarks/recipe_bench.py --dataset
caltech-101 --per-class 30 --seeds 1
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from harness import caltech_protocol as protocol
from harness.options import RecipeBenchConfig
from harness.provenance import provenance
from trainer_classification import cli
from trainer_classification.config import TrainConfig
from trainer_classification.data.source import find_dataset
from trainer_classification.training.train import train

_PATH_OPTIONS = (
    "dataset",
    "prepared",
    "output_dir",
    "json",
)  # they say where files are, not what is trained


def measure(config: RecipeBenchConfig, seed: int) -> dict[str, Any]:
    """Train once and return a row of results.

    cpu_seconds is the user and system time of all threads over the whole run,
    evaluation and report included.
    """
    options = {
        field.name: getattr(config, field.name) for field in dataclasses.fields(TrainConfig)
    } | {"seed": seed}
    if config.per_class:
        source = find_dataset(config.dataset, config.task)
        folder = protocol.write(
            source, config.per_class, seed, Path(config.output_dir or ".data") / "protocol"
        )
        options["dataset"] = str(folder)
    cpu_before = time.process_time()
    summary = train(TrainConfig(**options))

    return {
        "dataset": summary["dataset"],
        "command": _format_command(config, summary["dataset"]),
        "seed": seed,
        "n": config.seeds,
        "hardware": provenance()["cpu"] if summary["device"] == "cpu" else summary["device"],
        "accuracy": summary["accuracy_test"],
        "balanced_accuracy": summary["balanced_accuracy_test"],
        "seconds": summary["seconds_training"],
        "cpu_seconds": time.process_time() - cpu_before,
        "epochs": summary["epochs"],
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def _format_command(config: RecipeBenchConfig, dataset: str) -> str:
    """Return the command line without the options that name files."""
    given = [
        f" --{field.name.replace('_', '-')} {getattr(config, field.name)}"
        for field in dataclasses.fields(config)
        if field.name not in _PATH_OPTIONS and getattr(config, field.name) != field.default
    ]
    return f"python benchmarks/recipe_bench.py --dataset {dataset}{''.join(given)}"


def main(config: RecipeBenchConfig) -> int:
    rows = [measure(config, config.seed + number) for number in range(config.seeds)]
    for row in rows:
        print(
            f"seed {row['seed']}  {row['accuracy']:.2%}, mean of classes {row['balanced_accuracy']:.2%}  "
            f"{row['seconds']:.1f} s  {row['cpu_seconds']:.1f} CPU s"
        )
    means = (
        sum(row[name] for row in rows) / len(rows) for name in ("accuracy", "balanced_accuracy")
    )
    print("mean of {}: {:.3%}, mean of classes {:.3%}".format(len(rows), *means))
    if config.json:
        _replace_rows(Path(config.json), rows)
    return 0


def _replace_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows to a file, in place of those of the same command and hardware."""
    key = ("command", "hardware")
    before = json.loads(path.read_text())["rows"] if path.is_file() else []
    kept = [row for row in before if any(row[name] != rows[0][name] for name in key)]
    path.write_text(json.dumps({"rows": kept + rows}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(cli.run(RecipeBenchConfig, main))
