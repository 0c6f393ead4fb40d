"""Train with several seeds, and write accuracies and seconds to a file of results.

    python benchmarks/recipe_bench.py --dataset mnist --json benchmarks/results/recipes-2core.json
    python benchmarks/recipe_bench.py --dataset FOLDER/caltech-101 --per-class 30 --weights imagenet

With ImageNet weights on a CPU, what a user would write instead runs in turns with it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from harness import caltech_protocol as protocol
from harness import long_tail
from harness.options import RecipeBenchConfig
from harness.plain_probe import probe_plainly, train_from_scratch
from harness.provenance import provenance
from trainer_classification import cli
from trainer_classification.config import TrainConfig
from trainer_classification.data.source import find_dataset
from trainer_classification.environment import cpu_count
from trainer_classification.training.train import train

_PATH_OPTIONS = (
    "dataset",
    "prepared",
    "output_dir",
    "json",
)  # they say where files are, not what is trained


def measure(config: RecipeBenchConfig, seed: int) -> dict[str, Any]:
    """Train once and return a row of results.

    seconds_command is the whole run from the raw files: preparing, training,
    evaluation and report. cpu_seconds is the user and system time of all threads
    in it, but for the processes that prepare.
    """
    options = {
        field.name: getattr(config, field.name) for field in dataclasses.fields(TrainConfig)
    } | {"seed": seed}
    options["dataset"] = _write_protocol(config, seed) or config.dataset
    cpu_before = time.process_time()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=_scratch(config), prefix="prepared-") as folder:
        options["prepared"] = folder
        summary = train(TrainConfig(**options))
    seconds_command = time.perf_counter() - started
    outside = summary["data_wait_fraction"] * summary["seconds_training"] + (
        summary["seconds_head"] or 0.0
    )

    return {
        "dataset": summary["dataset"],
        "command": _format_command(config, summary["dataset"]),
        "seed": seed,
        "n": config.seeds,
        "hardware": provenance()["cpu"] if summary["device"] == "cpu" else summary["device"],
        "accuracy": summary["accuracy_test"],
        "balanced_accuracy": summary["balanced_accuracy_test"],
        "seconds": summary["seconds_training"],
        "seconds_command": seconds_command,
        "seconds_outside_network": outside if summary["seconds_head"] is not None else None,
        "cpu_seconds": time.process_time() - cpu_before,
        "epochs": summary["epochs"],
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def measure_plain_loops(
    config: RecipeBenchConfig, seed: int, row: dict[str, Any], is_first: bool
) -> dict[str, Any]:
    """Run what a user would write instead on the same images, and return it as entries of the row.

    Args:
        config: of the bench.
        seed: of the cut.
        row: of `measure`.
        is_first: whether to measure accuracies too, which takes minutes.
    """
    source = find_dataset(_write_protocol(config, seed) or config.dataset, config.task)
    plain = probe_plainly(source, cpu_count(), test=is_first)
    network = row["seconds"] - row["seconds_outside_network"]
    entries: dict[str, Any] = {
        "plain_seconds_network": plain.seconds_network,
        "plain_seconds_outside": plain.seconds_outside,
        "network_ratio": network / plain.seconds_network,
        "outside_ratio": row["seconds_outside_network"] / plain.seconds_outside,
        "speedup": (plain.seconds_network + plain.seconds_outside) / row["seconds"],
    }
    if is_first:
        entries["plain_balanced_accuracy"] = plain.balanced_accuracy
        entries["scratch_balanced_accuracy"] = train_from_scratch(
            source, row["seconds"], cpu_count()
        )
    return entries


def _write_protocol(config: RecipeBenchConfig, seed: int) -> str:
    """Return the folder of the dataset with the splits of --per-class or --long-tail; "" without these options."""
    if not config.per_class and not config.long_tail:
        return ""
    source = find_dataset(config.dataset, config.task)
    if config.long_tail:
        root = _scratch(config) / "protocol"
        return str(long_tail.write(source, config.long_tail, config.classes, seed, root))
    return str(protocol.write(source, config.per_class, seed, _scratch(config) / "protocol"))


def _scratch(config: RecipeBenchConfig) -> Path:
    folder = Path(config.output_dir or ".data")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _format_command(config: RecipeBenchConfig, dataset: str) -> str:
    """Return the command line without the options that name files."""
    given = [
        f" --{field.name.replace('_', '-')} {getattr(config, field.name)}"
        for field in dataclasses.fields(config)
        if field.name not in _PATH_OPTIONS and getattr(config, field.name) != field.default
    ]
    return f"python benchmarks/recipe_bench.py --dataset {dataset}{''.join(given)}"


def main(config: RecipeBenchConfig) -> int:
    rows = []
    for number in range(config.seeds):
        row = measure(config, config.seed + number)
        if row["seconds_outside_network"] is not None and config.weights == "imagenet":
            row |= measure_plain_loops(config, config.seed + number, row, number == 0)
        rows.append(row)
    for row in rows:
        print(
            f"seed {row['seed']}  {row['accuracy']:.2%}, mean of classes {row['balanced_accuracy']:.2%}  "
            f"{row['seconds']:.1f} s of {row['seconds_command']:.1f} s  {row['cpu_seconds']:.1f} CPU s"
        )
        if "speedup" in row:
            print(_describe_plain_loops(row))
    means = (
        sum(row[name] for row in rows) / len(rows) for name in ("accuracy", "balanced_accuracy")
    )
    print("mean of {}: {:.3%}, mean of classes {:.3%}".format(len(rows), *means))
    if config.json:
        _replace_rows(Path(config.json), rows)
    return 0


def _describe_plain_loops(row: dict[str, Any]) -> str:
    plain = row["plain_seconds_network"] + row["plain_seconds_outside"]
    text = (
        f"  the plain loop over the same network takes {plain:.1f} s ({row['speedup']:.2f}x as long); of its time in "
        f"the network {row['network_ratio']:.2f} are needed here, of that outside {row['outside_ratio']:.2f}"
    )
    if "scratch_balanced_accuracy" not in row:
        return text
    return (
        f"{text}\n  mean of classes by the plain loop {row['plain_balanced_accuracy']:.2%}; by a ResNet-18 from random "
        f"weights in the same {row['seconds']:.0f} s {row['scratch_balanced_accuracy']:.2%}"
    )


def _replace_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows to a file, in place of those of the same command and hardware."""
    key = ("command", "hardware")
    before = json.loads(path.read_text())["rows"] if path.is_file() else []
    kept = [row for row in before if any(row[name] != rows[0][name] for name in key)]
    path.write_text(json.dumps({"rows": kept + rows}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(cli.run(RecipeBenchConfig, main))
