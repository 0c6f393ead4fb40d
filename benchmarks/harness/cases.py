"""From options to workloads: which datasets, prepared how, and which registry."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from harness import bottleneck as ladder
from harness import registry
from harness.options import LoaderBenchConfig
from harness.workload import Workload, repeat_dataset, make_scratch_folder
from trainer_classification.config import PrepareConfig
from trainer_classification.device import choose_device
from trainer_classification.environment import cpu_count
from trainer_classification.preparation.pipeline import Prepared, prepare

SAMPLES = Path(__file__).parents[2] / "samples"
_REPEATED = {"cifar100": 2048, "caltech-101": 512}  # images, where no dataset is given
_STARTED = time.perf_counter()
_SMALL, _BATCH_SMALL, _BATCH = 64, 512, 128


def say(text: str) -> None:
    """A line for whoever waits."""
    print(f"{time.perf_counter() - _STARTED:6.1f} s  {text}", file=sys.stderr, flush=True)


def select_datasets(option: str, scratch: Path) -> list[str]:
    """Those that the option names, or the bundled samples, repeated."""
    if option:
        return option.split(",")
    return [str(repeat_dataset(SAMPLES / name, images, scratch / "samples")) for name, images in _REPEATED.items()]


def prepare_dataset(dataset: str, image_size: int, scratch: Path, threads: int) -> Prepared:
    """All three formats, every image that is no test image in the train split."""
    return prepare(
        PrepareConfig(
            dataset=dataset,
            out=str(scratch / "prepared"),
            image_size=image_size,
            validation_fraction=0.0,
            workers=threads,
        )
    )


def make_workload(config: LoaderBenchConfig, dataset: str) -> Workload:
    """Prepare a dataset, and say what is to be delivered."""
    scratch = Path(config.scratch)
    ready = prepare_dataset(dataset, config.image_size, scratch, config.threads)
    return workload_from(ready, scratch, config.batch_size, config.threads, choose_device(config.device)[0])


def workload_from(ready: Prepared, scratch: Path, batch_size: int, threads: int, device: torch.device) -> Workload:
    """The train split of a prepared dataset."""
    size, count = ready.manifest.train_size, ready.manifest.splits["train"].count
    return Workload(
        prepared=str(ready.folder.absolute()),
        scratch=str(make_scratch_folder(scratch / "scratch", ready.manifest).absolute()),
        batch_size=min(count, batch_size or (_BATCH_SMALL if size <= _SMALL else _BATCH)),
        threads=threads or cpu_count(),
        device=str(device),
        image_size=size,
    )


def select_candidates(option: str, ladders: str) -> list[str]:
    """The candidates asked for, and those that the ladders need.

    Raises:
        ValueError: there is none of a name.
    """
    known = registry.CANDIDATES
    names = [name for name in option.split(",") if name] or list(known)
    of_ladders = [name for name in ladders.split(",") if name]
    check_names("--loaders", names, list(known))
    check_names("--ladder", of_ladders, list(registry.OURS))
    return [*names, *ladder.names(of_ladders)]


def check_names(option: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Raise ValueError where an option lists what there is not."""
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"{option} has {', '.join(map(repr, unknown))}, but may list: {', '.join(known)}.")
