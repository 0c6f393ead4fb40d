"""Run tests/gpu and the benchmarks on a CUDA machine that has only python3, torch and numpy: make gpu-check

Prepared arrays of random pixels stand in for the datasets, with their sizes or
with fewer images (--images). The content of the images does not change what the
device path and the step cost. Prepared datasets of real images, made on another
machine, are measured too, and their recipes are trained. Writes
benchmarks/results/gpu-<card>.json and .md.
"""

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness import tables
from harness.delivery import Candidate
from harness.engines import formats
from harness.measure import COUNT, Stopwatch, Turn, interleave, summarize
from harness.own_loaders import Engine
from harness.provenance import provenance
from harness.registry import installed
from harness.resources import usage
from harness.step_timing import Steps, fit_batch_size
from harness.synthetic import write_prepared
from harness.targets import read_targets
from harness.workload import Workload
from trainer_classification.config import TrainConfig
from trainer_classification.data import manifest
from trainer_classification.data.array import open_array
from trainer_classification.loaders.base import BatchSchedule
from trainer_classification.loaders.resident import HostResident
from trainer_classification.training.signals import Stopped
from trainer_classification.training.train import train_prepared

ROOT = Path(__file__).parents[1]
# Name: training images, stored side, training side, channels, classes.
DATASETS = {
    "mnist": (54_000, 28, 28, 1, 10),
    "cifar100": (45_000, 32, 32, 3, 100),
    "caltech-101": (6_247, 160, 128, 3, 101),
}
# The options of the trainings of each prepared dataset, one run each.
RUNS: dict[str, list[dict[str, Any]]] = {
    "mnist": [
        {},
        *({"epochs": 7, "seed": seed} for seed in range(3)),
        {"epochs": 7, "amp": "fp16"},
        {"epochs": 7, "compile": "off"},
        {"budget": "20s"},
    ],
    "cifar100": [
        *({"recipe": "speed", "seed": seed} for seed in range(3)),
        *({"recipe": "speed"} | options for options in ({"amp": "fp16"}, {"compile": "off"})),
        *({"recipe": "standard"} | options for options in ({}, {"amp": "fp16"})),
    ],
}
RATES = {
    "what": lambda row: row["what"],
    **tables.RATE_COLUMNS,
    "CPU s per 1k": lambda row: f"{row['cpu_seconds_per_1k']:.4f}",
}
TRAININGS = {
    "options": lambda row: row["options"],
    "precision": lambda row: row["precision"],
    "step": lambda row: row["compile"],
    "epochs": lambda row: str(row["epochs"]),
    "test accuracy": lambda row: f"{row['accuracy_test']:.2%}",
    "training": lambda row: f"{row['seconds_training']:.1f} s",
    "whole": lambda row: f"{row['seconds_total']:.1f} s",
    "first step": lambda row: f"{row['seconds_in_first_step']:.1f} s",
    "img/s": lambda row: f"{row['images_per_second']:,.0f}",
    "data-wait": lambda row: f"{row['data_wait_fraction']:.2%}",
}
NOTE = (
    "Rates are device time by CUDA events: the median over the turns, in which all alternate, with its 95 % interval. "
    "whole: training with evaluation, test and report. first step: part of `training`, with tuning or compilation. "
    "data-wait: fraction of the training in which the device had nothing to do, waiting for a batch."
)


def main() -> int:
    options = parse_arguments()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("Error: torch finds no CUDA device here.", file=sys.stderr)
        return 2

    card = (
        re.sub(r"\W+", "-", torch.cuda.get_device_name().lower())
        if options.device == "cuda"
        else "cpu"
    )
    path = Path(options.out) / f"gpu-{card}.json"
    content: dict[str, Any] = {
        "tests_gpu": run_tests() if options.device == "cuda" and options.tests else "not run"
    }
    content |= {"rows": [], "trainings": []}
    failed = bool(re.search("failed|error", content["tests_gpu"]))
    with tempfile.TemporaryDirectory() as folder:
        for kind, measure in list_measurements(options, Path(folder)):
            try:
                content[kind] += measure()
            except Stopped as stop:
                print(stop, file=sys.stderr)
                return stop.code
            except Exception:  # print it and go on, since such a machine is not available every day
                traceback.print_exc()
                failed = True
            tables.write_json(path, content)

    page = format_page(content)
    path.with_suffix(".md").write_text(page)
    print(page, f"Written: {path}", sep="\n")

    return int(failed)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try this script")
    parser.add_argument(
        "--images", type=int, default=0, help="images of each synthetic dataset. 0: as the real one"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of each measurement")
    parser.add_argument(
        "--prepared", action="append", default=[], help="folder that prepare.py made; repeatable"
    )
    parser.add_argument(
        "--no-tests", dest="tests", action="store_false", help="do not run tests/gpu"
    )
    parser.add_argument(
        "--out", default=str(ROOT / "benchmarks/results"), help="folder for the results"
    )
    return parser.parse_args()


def list_measurements(
    options: argparse.Namespace, folder: Path
) -> list[tuple[str, Callable[[], list[dict]]]]:
    """Return what to measure: the key of its results, and the function that returns them."""
    given = [Path(name) for name in options.prepared]
    synthetic = [
        write_synthetic(folder / name, name, options.images)
        for name in find_missing_datasets(given)
    ]
    measurements: list[tuple[str, Callable[[], list[dict]]]] = [
        ("rows", partial(measure_rates, source, options)) for source in [*synthetic, *given]
    ]
    for source in given:
        runs = RUNS.get(manifest.read(source).dataset, [])
        measurements += [
            ("trainings", partial(measure_training, source, run, options, folder)) for run in runs
        ]
    return measurements


def find_missing_datasets(given: list[Path]) -> list[str]:
    """Return the datasets that are not given as prepared arrays of real images."""
    with_array = {found.dataset for found in map(manifest.read, given) if "array" in found.formats}
    return [name for name in DATASETS if name not in with_array]


def run_tests() -> str:
    """Run tests/gpu where pytest is installed.

    Returns the last line that it prints.
    """
    if importlib.util.find_spec("pytest") is None:
        print("tests/gpu are left out: pytest is not installed", file=sys.stderr)
        return "not run: no pytest"
    # The project's configuration and the conftest above tests/gpu need packages
    # that are missing here.
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rs",
        "-c",
        "/dev/null",
        "--rootdir",
        str(ROOT),
        "tests/gpu",
    ]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    print(done.stdout)

    return done.stdout.strip().rpartition("\n")[2]


def write_synthetic(folder: Path, name: str, images: int) -> Path:
    """Write a prepared dataset of random pixels. Returns its folder."""
    count, side, size, channels, classes = DATASETS[name]
    count = min(count, images) if images else count
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (count, side, side, channels), dtype=np.uint8)
    labels = random.permutation(np.arange(count) % classes)
    write_prepared(folder, name, {"train": (pixels, labels)}, size)
    return folder


def measure_rates(prepared: Path, options: argparse.Namespace) -> list[dict]:
    """Measure each loader alone, the step alone, and training fed by each loader, in turns."""
    found = manifest.read(prepared)
    batch_size = 512 if found.train_size <= 64 else 128
    work = Workload(
        str(prepared), "", batch_size, provenance()["threads"], options.device, found.train_size
    )
    candidates = open_candidates(work)
    takers = {
        name: TurnTaker(candidate, work.torch_device, options.seconds / COUNT)
        for name, candidate in candidates.items()
    }
    turns = interleave(takers, options.seconds)
    for candidate in candidates.values():
        candidate.close()

    description = {
        "dataset": found.dataset,
        "pixels": "real" if prepared in map(Path, options.prepared) else "random",
        "images": work.count,
        "image_size": work.image_size,
        "network": work.recipe.model,
        "device": options.device,
    }
    step_batch_size = fit_batch_size(work).batch_size

    return [
        description
        | {"what": name, "batch_size": batch_size if name.startswith("loader") else step_batch_size}
        | summarize(done)
        | provenance()
        for name, done in turns.items()
    ]


def open_candidates(work: Workload) -> dict:
    """Open what can be measured of a prepared dataset, by the name of its row."""
    found = work.manifest
    step_work = fit_batch_size(work)
    candidates: dict[str, Any] = {}
    if "array" in found.formats:
        candidates["loader resident"] = Engine("resident", work)
        candidates["step, cached batch"] = Steps(step_work)
        candidates["training, fed by resident"] = Steps(step_work, "resident")
        if work.device == "cuda" and importlib.util.find_spec("numba"):
            candidates["loader resident, on the host"] = HostEngine(work)
    if installed(("nvidia.dali",)) and set(formats("dali", found.resized)) <= found.formats.keys():
        candidates["loader dali"] = Engine("dali", work)
        candidates["training, fed by dali"] = Steps(step_work, "dali")
    return candidates


class HostEngine(Engine):
    """The resident loader for a split that does not fit on the GPU: it makes batches on the host and copies them."""

    def __init__(self, work: Workload) -> None:
        store = open_array(Path(work.prepared), work.manifest, "train")
        schedule = BatchSchedule(work.plan, work.count, work.batch_size)
        self.loader = HostResident(
            store, schedule, work.image_size, work.torch_device, work.threads
        )


class TurnTaker:
    """Take turns of a candidate in this process, after one that is not timed."""

    def __init__(self, candidate: Candidate, device: torch.device, seconds: float) -> None:
        self.candidate = candidate
        self.watch = Stopwatch(device)
        self.seconds = seconds
        self.number = 0
        self()

    def __call__(self) -> Turn:
        before = usage(os.getpid())
        images = 0
        taken = 0.0
        while taken < self.seconds:
            self.watch.start()
            images += sum(batch.count for batch in self.candidate.epoch(self.number))
            taken += self.watch.stop()
            self.number += 1
        return Turn(images, taken, usage(os.getpid()) - before)


def measure_training(
    prepared: Path, run: dict, options: argparse.Namespace, folder: Path
) -> list[dict]:
    """Train once, from the first step to the report."""
    found = manifest.read(prepared)
    on_gpu = options.device == "cuda"
    started = time.monotonic()
    cpu_before = time.process_time()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory(dir=folder) as outputs:
        config = TrainConfig(**run, device=options.device, output_dir=outputs)
        summary = train_prepared(config, prepared, found, started)
        (metrics,) = Path(outputs).rglob("metrics.jsonl")
        history = [json.loads(line) for line in metrics.read_text().splitlines()]

    arguments = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in run.items())
    description = {"options": arguments or "none", "validation": "validation" in found.splits}
    used = {"cpu_seconds": time.process_time() - cpu_before}
    if on_gpu:
        used["gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return [description | summary | used | provenance() | {"history": history}]


def format_page(content: dict) -> str:
    """Format the results as a Markdown page."""
    targets = read_targets()[1]
    parts = [f"# On a GPU\n\ntests/gpu: {content['tests_gpu']}."]
    for dataset, pixels in dict.fromkeys(
        (row["dataset"], row["pixels"]) for row in content["rows"]
    ):
        rows = [
            row for row in content["rows"] if (row["dataset"], row["pixels"]) == (dataset, pixels)
        ]
        batches = " and ".join(sorted({str(row["batch_size"]) for row in rows}, key=int))
        measured = tables.describe_rows(rows[0] | {"batch_size": batches})
        parts += [
            f"## {rows[0]['network']}, {pixels} pixels: {measured}",
            tables.format_table(rows, RATES),
        ]
        aims = [
            f"{aim.hardware} {aim.images_per_second:,.0f}"
            for aim in targets
            if aim.dataset == dataset
        ]
        if aims:
            parts.append(f"Consumed by other cards (benchmarks/targets.toml): {', '.join(aims)}.")
    for dataset in dict.fromkeys(row["dataset"] for row in content["trainings"]):
        rows = [row for row in content["trainings"] if row["dataset"] == dataset]
        parts += [
            f"## Trained: {dataset}, {rows[0]['device']}",
            tables.format_table(rows, TRAININGS),
        ]

    return "\n\n".join([*parts, NOTE]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
