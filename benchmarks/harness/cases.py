"""Turn options into workloads: which datasets, prepared how, and which candidates."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from harness.bottleneck import list_stages
from harness.engines import OURS
from harness.options import LoaderBenchConfig
from harness.registry import CANDIDATES
from harness.workload import Workload, make_scratch_folder, repeat_dataset
from trainer_classification.config import PrepareConfig
from trainer_classification.device import choose_device
from trainer_classification.environment import cpu_count
from trainer_classification.preparation.inspect import inspect
from trainer_classification.preparation.pipeline import Prepared, write
from trainer_classification.preparation.recall import format_names

SAMPLES = Path(__file__).parents[2] / "samples"
_SAMPLE_IMAGES = {
    "cifar100": 2048,
    "caltech-101": 512,
}  # images of the samples, where no dataset is given
_SMALL_SIDE = 64  # px
_BATCH_SMALL = 512
_BATCH = 128
_STARTED = time.perf_counter()


def say(text: str) -> None:
    """Print a progress line with the seconds since the start to stderr."""
    print(f"{time.perf_counter() - _STARTED:6.1f} s  {text}", file=sys.stderr, flush=True)


def select_datasets(option: str, scratch: Path) -> list[str]:
    """Return the datasets that the option names, or else the repeated samples."""
    if option:
        return option.split(",")
    return [
        str(repeat_dataset(SAMPLES / name, images, scratch / "samples"))
        for name, images in _SAMPLE_IMAGES.items()
    ]


def prepare_dataset(
    dataset: str, image_size: int, scratch: Path, threads: int, with_planes: bool = False
) -> Prepared:
    """Prepare a dataset, with every image that is not a test image in the train split.

    Args:
        dataset: its name or folder.
        image_size: side of the batches in px; 0: the recipe's.
        scratch: folder of the benchmark.
        threads: number of processes.
        with_planes: add the planes of photographs to the three other formats.
    """
    config = PrepareConfig(
        dataset=dataset,
        prepared=str(scratch / "prepared"),
        image_size=image_size,
        validation_fraction=0.0,
        workers=threads,
    )
    info = inspect(config)
    names = format_names(config)
    return write(info, [*names, "planes"] if with_planes and info.resized else names, config)


def make_workload(config: LoaderBenchConfig, dataset: str) -> Workload:
    """Prepare a dataset and describe what is to be delivered of it."""
    scratch = Path(config.scratch)
    names = split_names(config.loaders)
    with_planes = not names or "planes" in names
    prepared = prepare_dataset(dataset, config.image_size, scratch, config.threads, with_planes)
    device = choose_device(config.device)[0]
    return describe_workload(prepared, scratch, config.batch_size, config.threads, device)


def describe_workload(
    prepared: Prepared, scratch: Path, batch_size: int, threads: int, device: torch.device
) -> Workload:
    """Describe the work of delivering the train split of a prepared dataset."""
    size = prepared.manifest.train_size
    count = prepared.manifest.splits["train"].count
    default_batch = _BATCH_SMALL if size <= _SMALL_SIDE else _BATCH

    return Workload(
        prepared=str(prepared.folder.absolute()),
        scratch=str(make_scratch_folder(scratch / "scratch", prepared.manifest).absolute()),
        batch_size=min(count, batch_size or default_batch),
        threads=threads or cpu_count(),
        device=str(device),
        image_size=size,
    )


def select_candidates(loaders: str, bottlenecks: str) -> list[str]:
    """Return the candidates that the options name, and the stages that the bottlenecks need.

    Raises:
        ValueError: an option names something unknown.
    """
    names = split_names(loaders) or list(CANDIDATES)
    engines = split_names(bottlenecks)
    check_names("--loaders", names, list(CANDIDATES))
    check_names("--bottleneck", engines, OURS)
    return [*names, *list_stages(engines)]


def split_names(option: str) -> list[str]:
    """Split a list with commas."""
    return [name for name in option.split(",") if name]


def check_names(option: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Raise ValueError if an option lists an unknown name."""
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"{option} has {', '.join(map(repr, unknown))}, but may list: {', '.join(known)}."
        )
