"""tests/gpu and the benches on a CUDA machine with python3, torch and numpy alone: make gpu-check

Prepared arrays of random pixels stand in for the datasets (of their sizes, or fewer images with --images): what the
device path and the step cost does not depend on what the images show. Prepared datasets of real images, which were made
on another machine, are measured too, and their recipes trained. Writes benchmarks/results/gpu-<card>.json and .md.
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
from functools import partial
from pathlib import Path

import numpy as np
import torch

from harness import tables
from harness.measure import COUNT, Stopwatch, Turn, figures, interleave
from harness.own_loaders import Engine
from harness.provenance import provenance
from harness.resources import usage
from harness.step_timing import Steps, fitted
from harness.synthetic import write_prepared
from harness.targets import read_targets
from harness.workload import Workload
from trainer_classification.config import TrainConfig
from trainer_classification.data import manifest
from trainer_classification.data.array import open_array
from trainer_classification.loaders import registry as select
from trainer_classification.loaders.base import BatchSchedule
from trainer_classification.loaders.resident import HostResident
from trainer_classification.training.loop import Stopped
from trainer_classification.training.train import train_prepared

ROOT = Path(__file__).parents[1]
# Name: training images, stored side, training side, channels, classes.
DATASETS = {
    "mnist": (54_000, 28, 28, 1, 10),
    "cifar100": (45_000, 32, 32, 3, 100),
    "caltech-101": (6_247, 160, 128, 3, 101),
}
# What a prepared dataset of this name is trained with, one run each.
RUNS = {
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
    "Device time by CUDA events; median over the turns, in turns, with its 95 % interval. whole: with evaluation, test "
    "and report; first step: of `training`, with tuning or compilation."
)


def main() -> int:
    options = parsed()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("Error: torch finds no CUDA device here.", file=sys.stderr)
        return 2
    card = re.sub(r"\W+", "-", torch.cuda.get_device_name().lower()) if options.device == "cuda" else "cpu"
    found = {"tests_gpu": tests() if options.device == "cuda" and options.tests else "not run"}
    found |= {"rows": [], "trainings": []}
    broken, path = bool(re.search("failed|error", found["tests_gpu"])), Path(options.out) / f"gpu-{card}.json"
    given = [Path(name) for name in options.prepared]
    with tempfile.TemporaryDirectory() as folder:
        sources = [made_up(Path(folder) / name, name, options.images) for name in still_to_make_up(given)] + given
        steps = [("rows", partial(measured, source, options)) for source in sources]
        for source in given:
            runs = RUNS.get(manifest.read(source).dataset, [])
            steps += [("trainings", partial(trained, source, run, options, folder)) for run in runs]
        for kind, measure in steps:
            try:
                found[kind] += measure()
            except Stopped as stop:
                print(stop, file=sys.stderr)
                return stop.code
            except Exception:  # told, and the rest goes on: such a machine is not at hand every day
                traceback.print_exc()
                broken = True
            tables.write_json(path, found)
    text = page(found)
    path.with_suffix(".md").write_text(text)
    print(text, f"Written: {path}", sep="\n")
    return int(broken)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cpu only to try this script")
    parser.add_argument("--images", type=int, default=0, help="of each made-up dataset; 0: as many as the real one has")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    parser.add_argument("--prepared", action="append", default=[], help="folder that prepare.py made; repeatable")
    parser.add_argument("--no-tests", dest="tests", action="store_false", help="leave out tests/gpu")
    parser.add_argument("--out", default=str(ROOT / "benchmarks/results"), help="folder for the results")
    return parser.parse_args()


def still_to_make_up(given: list[Path]) -> list[str]:
    """The datasets that have not been given as arrays of real images."""
    manifests = [manifest.read(path) for path in given]
    return [name for name in DATASETS if not any(of.dataset == name and "array" in of.formats for of in manifests)]


def tests() -> str:
    """What pytest says of tests/gpu in its last line, where there is a pytest."""
    if importlib.util.find_spec("pytest") is None:
        print("tests/gpu are left out: pytest is not installed", file=sys.stderr)
        return "not run: no pytest"
    # Its configuration and the conftest above ask for packages that are not here.
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-c", "/dev/null", "--rootdir", str(ROOT), "tests/gpu"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    print(done.stdout)
    return done.stdout.strip().rpartition("\n")[2]


def made_up(folder: Path, name: str, images: int) -> Path:
    """A prepared dataset of random pixels, in the layout that prepare writes."""
    count, side, size, channels, classes = DATASETS[name]
    count = min(count, images) if images else count
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (count, side, side, channels), dtype=np.uint8)
    labels = random.permutation(np.arange(count) % classes)
    write_prepared(folder, name, {"train": (pixels, labels)}, size)
    return folder


def measured(prepared: Path, options: argparse.Namespace) -> list[dict]:
    """The loaders alone, the step alone, and training fed by each loader, in turns."""
    of, threads = manifest.read(prepared), provenance()["threads"]
    work = Workload(str(prepared), "", 512 if of.train_size <= 64 else 128, threads, options.device, of.train_size)
    fits, contestants = fitted(work), {}
    if "array" in of.formats:
        contestants |= {"loader resident": Engine("resident", work), "step, cached batch": Steps(fits)}
        contestants["training, fed by resident"] = Steps(fits, "resident")
        if options.device == "cuda" and importlib.util.find_spec("numba"):
            contestants["loader resident, on the host"] = OnHost(work)
    if select.installed("dali") and ("tar" if of.resized else "array") in of.formats:
        contestants |= {"loader dali": Engine("dali", work), "training, fed by dali": Steps(fits, "dali")}
    takers = {name: Taker(contestant, work.where, options.seconds / COUNT) for name, contestant in contestants.items()}
    turns = interleave(takers, options.seconds)
    for contestant in contestants.values():
        contestant.close()
    about = {
        "dataset": of.dataset,
        "pixels": "real" if prepared in map(Path, options.prepared) else "random",
        "images": work.count,
    }
    about |= {"image_size": work.image_size, "network": work.recipe.model, "device": options.device}
    return [
        about
        | {"what": name, "batch_size": (work if name.startswith("loader") else fits).batch_size}
        | figures(done)
        | provenance()
        for name, done in turns.items()
    ]


class OnHost(Engine):
    """The resident loader as for a split that does not fit on the GPU: batches are made on the host, and copied."""

    def __init__(self, work: Workload) -> None:
        store = open_array(Path(work.prepared), work.manifest, "train")
        share = BatchSchedule(work.plan, work.count, work.batch_size)
        self.loader = HostResident(store, share, work.image_size, work.where, work.threads)


class Taker:
    """Turns of a contestant within this process, after one that is not timed."""

    def __init__(self, contestant, device: torch.device, seconds: float) -> None:
        self.contestant, self.watch, self.seconds, self.number = contestant, Stopwatch(device), seconds, 0
        self()

    def __call__(self) -> Turn:
        before, images, taken = usage(os.getpid()), 0, 0.0
        while taken < self.seconds:
            self.watch.start()
            images += sum(batch.count for batch in self.contestant.epoch(self.number))
            taken += self.watch.stop()
            self.number += 1
        return Turn(images, taken, usage(os.getpid()) - before)


def trained(prepared: Path, run: dict, options: argparse.Namespace, folder: str) -> list[dict]:
    """One training, from the first step to the report."""
    of, on_gpu = manifest.read(prepared), options.device == "cuda"
    cpu, started = time.process_time(), time.time()
    torch.cuda.reset_peak_memory_stats() if on_gpu else None
    with tempfile.TemporaryDirectory(dir=folder) as outputs:
        config = TrainConfig(**run, device=options.device, output_dir=outputs)
        summary = train_prepared(config, prepared, of, started)
        (metrics,) = Path(outputs).rglob("metrics.jsonl")
        history = [json.loads(line) for line in metrics.read_text().splitlines()]
    shown = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in run.items())
    about = {"options": shown or "none", "validation": "validation" in of.splits}
    used = {"cpu_seconds": time.process_time() - cpu}
    used |= {"gpu_memory_mb": torch.cuda.max_memory_allocated() / 1e6} if on_gpu else {}
    return [about | summary | used | provenance() | {"history": history}]


def page(found: dict) -> str:
    """What was found, as Markdown."""
    targets, parts = read_targets()[1], [f"# On a GPU\n\ntests/gpu: {found['tests_gpu']}."]
    for dataset, pixels in dict.fromkeys((row["dataset"], row["pixels"]) for row in found["rows"]):
        rows = [row for row in found["rows"] if (row["dataset"], row["pixels"]) == (dataset, pixels)]
        batches = " and ".join(sorted({str(row["batch_size"]) for row in rows}, key=int))
        title = f"## {rows[0]['network']}, {pixels} pixels: {tables.about(rows[0] | {'batch_size': batches})}"
        parts += [title, tables.markdown(list(RATES), tables.cells(rows, RATES))]
        aims = [f"{aim.hardware} {aim.images_per_second:,.0f}" for aim in targets if aim.dataset == dataset]
        parts += [f"Consumed by other cards (benchmarks/targets.toml): {', '.join(aims)}."] if aims else []
    for dataset in dict.fromkeys(row["dataset"] for row in found["trainings"]):
        rows = [row for row in found["trainings"] if row["dataset"] == dataset]
        parts += [
            f"## Trained: {dataset}, {rows[0]['device']}",
            tables.markdown(list(TRAININGS), tables.cells(rows, TRAININGS)),
        ]
    return "\n\n".join([*parts, NOTE]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
