"""Train a dataset's recipe with several seeds, and add the accuracies and seconds to a file of results.

python benchmarks/recipe_bench.py --dataset mnist --json benchmarks/results/recipes-2core.json
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

from trainer_classification import cli
from trainer_classification.config import RecipeBenchConfig, TrainConfig, cpu_count
from trainer_classification.training.loop import train


def measure(config: RecipeBenchConfig, seed: int) -> dict[str, Any]:
    """One training. cpu_seconds: user and system time of all threads over all of it, evaluation and report included."""
    options = {
        "dataset": config.dataset,
        "recipe": config.recipe,
        "epochs": config.epochs,
        "validation_fraction": config.validation_fraction,
        "seed": seed,
    }
    cpu = time.process_time()
    summary = train(TrainConfig(**options, prepared=config.prepared, output_dir=config.output_dir))
    return {
        "dataset": summary["dataset"],
        "recipe": config.recipe,
        "command": "python scripts/train.py " + _flags(options | {"dataset": summary["dataset"]}),
        "seed": seed,
        "n": config.seeds,
        "hardware": summary["device"] if summary["device"] != "cpu" else f"{_cpu_name()}, {cpu_count()} cores",
        "accuracy": summary["accuracy_test"],
        "seconds": summary["seconds_training"],
        "cpu_seconds": time.process_time() - cpu,
        "epochs": summary["epochs"],
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def _flags(options: dict[str, Any]) -> str:
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in options.items())


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main(config: RecipeBenchConfig) -> int:
    rows = [measure(config, seed) for seed in range(config.seeds)]
    for row in rows:
        print(f"seed {row['seed']}  {row['accuracy']:.2%}  {row['seconds']:.1f} s  {row['cpu_seconds']:.1f} CPU s")
    print(f"mean of {len(rows)}: {sum(row['accuracy'] for row in rows) / len(rows):.3%}")
    if config.json:
        path = Path(config.json)
        same = ("dataset", "recipe", "hardware", "epochs")
        kept = json.loads(path.read_text())["rows"] if path.is_file() else []
        kept = [row for row in kept if any(row[name] != rows[0][name] for name in same)]
        path.write_text(json.dumps({"rows": kept + rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(RecipeBenchConfig, main))
