"""tests/gpu and the benches on a CUDA machine with python3, torch and numpy alone: make gpu-check

Prepared arrays of random pixels stand in for the datasets (of their sizes, or fewer images with --images): what the
device path and the step cost does not depend on what the images show. Writes benchmarks/results/gpu-<card>.json.
"""

import argparse
import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from trainer_classification.bench import tables
from trainer_classification.bench.engines import Engine
from trainer_classification.bench.measure import COUNT, Stopwatch, Turn, figures, interleave
from trainer_classification.bench.provenance import provenance
from trainer_classification.bench.resources import usage
from trainer_classification.bench.steps import Steps, fitted
from trainer_classification.bench.targets import read_targets
from trainer_classification.bench.workload import Workload
from trainer_classification.data import array, manifest, table
from trainer_classification.data.manifest import Manifest, SplitInfo, file_info

ROOT = Path(__file__).parents[1]
# Name: training images, stored side, training side, channels, classes.
DATASETS = {
    "mnist": (54_000, 28, 28, 1, 10),
    "cifar100": (45_000, 32, 32, 3, 100),
    "caltech-101": (6_247, 160, 128, 3, 101),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cpu only to try this script")
    parser.add_argument("--images", type=int, default=0, help="of each dataset; 0: as many as it has")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("Error: torch finds no CUDA device here.", file=sys.stderr)
        return 2
    code = tests() if options.device == "cuda" else 0
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in DATASETS:
            rows += measured(made_up(Path(folder) / name, name, options.images), options)
    card = re.sub(r"\W+", "-", torch.cuda.get_device_name().lower()) if options.device == "cuda" else "cpu"
    path = ROOT / f"benchmarks/results/gpu-{card}.json"
    tables.write_json(path, {"rows": rows, "tests_gpu": {0: "passed", -1: "not run: no pytest"}.get(code, "failed")})
    print(json.dumps([{k: row[k] for k in ("dataset", "what", "images_per_second", "note")} for row in rows], indent=1))
    print(f"Written: {path}")
    return max(0, code)


def tests() -> int:
    """Run tests/gpu; -1 where there is no pytest to run them."""
    if importlib.util.find_spec("pytest") is None:
        print("tests/gpu are left out: pytest is not installed", file=sys.stderr)
        return -1
    # Its configuration and the conftest above ask for packages that are not here.
    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", str(ROOT), "tests/gpu"]
    return subprocess.run(command, cwd=ROOT).returncode


def made_up(folder: Path, name: str, images: int) -> Workload:
    """A prepared dataset of random pixels, in the layout that prepare writes."""
    count, side, size, channels, classes = DATASETS[name]
    count = min(count, images) if images else count
    random = np.random.default_rng(0)
    (folder / "array").mkdir(parents=True)
    with (folder / array.path("train")).open("wb") as file:
        for start in range(0, count, 4096):
            rows = min(4096, count - start)
            file.write(random.integers(0, 256, (rows, side, side, channels), dtype=np.uint8).tobytes())
    sizes = np.full((count, 2), 300 if size < side else side, np.int32)
    labels = random.integers(0, classes, count)
    table.write_table(folder, "train", table.Table(labels, sizes, [f"{row}.jpg" for row in range(count)]))
    names = [array.path("train"), *table.paths("train")]
    values = {field.name: "" for field in dataclasses.fields(Manifest)}
    values |= {"dataset": name, "formats": {"array": {}}, "class_names": [str(number) for number in range(classes)]}
    values |= {"splits": {"train": SplitInfo(count, "random", np.bincount(labels, minlength=classes).tolist())}}
    values |= {"channels": channels, "image_size": side, "train_size": size, "resized": size < side}
    values |= {"layout": "WHC" if size < side else "HWC", "mean": [0.5] * channels, "std": [0.29] * channels}
    values |= {"files": {name: sized(folder / name) for name in names}, "skipped": [], "unlabelled": 0}
    values |= {"duplicates": [], "options": {}, "format_version": manifest.FORMAT_VERSION}
    Manifest(**values).write(folder)
    return Workload(str(folder), str(folder), 512 if size <= 64 else 128, 0, "cpu", size)


def sized(path: Path) -> manifest.FileInfo:
    """Size, and the checksum where xxhash is installed."""
    if importlib.util.find_spec("xxhash") is not None:
        return file_info(path)
    return manifest.FileInfo(path.stat().st_size, "")


def measured(workload: Workload, options) -> list[dict]:
    """The loader alone, the step alone and both, in turns."""
    work = dataclasses.replace(workload, device=options.device, threads=provenance()["threads"])
    contestants = {
        "loader": Engine("resident", work),
        "step, cached batch": Steps(fitted(work)),
        "training, fed by the loader": Steps(fitted(work), "resident"),
    }
    takers = {name: Taker(contestant, work.where, options.seconds / COUNT) for name, contestant in contestants.items()}
    turns = interleave(takers, options.seconds)
    for contestant in contestants.values():
        contestant.close()
    about = {"dataset": work.manifest.dataset, "images": work.count, "image_size": work.image_size}
    about |= {"network": work.recipe.model, "batch_size": work.batch_size, "device": options.device}
    _, targets = read_targets()
    aims = {t.hardware: t.images_per_second for t in targets if t.dataset == work.manifest.dataset}
    note = "targets of other cards: " + ", ".join(f"{name} {rate:,.0f}" for name, rate in aims.items())
    return [about | {"what": name, "note": note} | figures(done) | provenance() for name, done in turns.items()]


class Taker:
    """Turns of a contestant within this process, after one that is not timed."""

    def __init__(self, contestant, device: torch.device, seconds: float) -> None:
        self.contestant, self.watch, self.seconds, self.number = contestant, Stopwatch(device), seconds, 0
        self()

    def __call__(self) -> Turn:
        import os

        before, images, taken = usage(os.getpid()), 0, 0.0
        while taken < self.seconds:
            self.watch.start()
            images += sum(batch.count for batch in self.contestant.epoch(self.number))
            taken += self.watch.stop()
            self.number += 1
        return Turn(images, taken, usage(os.getpid()) - before)


if __name__ == "__main__":
    sys.exit(main())
