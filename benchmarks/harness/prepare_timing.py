"""Prepare and FFCV's writer as candidates: an epoch is the whole dataset, from the original files to a new folder."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.delivery import Delivery
from harness.vendor_defaults import SelfShuffling, write_ffcv
from harness.workload import Workload
from trainer_classification.config import PrepareConfig
from trainer_classification.data.beton import open_beton
from trainer_classification.preparation.pipeline import prepare

_SIDE = 256  # px: the betons of both sides are bounded to it
OURS: dict[str, dict[str, Any]] = {
    "array": {"formats": "array"},
    "beton-raw": {"formats": "beton", "beton_mode": "raw", "beton_side": _SIDE},
    "beton-jpg": {"formats": "beton", "beton_mode": "jpg", "beton_side": _SIDE},
    "tar": {"formats": "tar"},
    "all": {"formats": "array,beton,tar", "beton_mode": "jpg", "beton_side": _SIDE},
}
THEIRS = {"ffcv-raw": "raw", "ffcv-jpg": "jpg"}


class Ours(SelfShuffling):
    """`prepare` with all its checks, into an empty folder."""

    def __init__(self, name: str, dataset: str, folder: Path, threads: int) -> None:
        self.files: list[str] = []
        self.folder = folder
        self.config = PrepareConfig(
            dataset=dataset, out=str(folder), validation_fraction=0.0, workers=threads, **OURS[name]
        )

    def epoch(self, number: int) -> Iterator[Delivery]:
        """All images of all splits."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            made = prepare(self.config)
        kinds = set(self.config.formats.split(","))
        assert kinds == set(made.manifest.formats), f"{sorted(made.manifest.formats)} were written, not {sorted(kinds)}"
        for path, info in made.manifest.files.items():
            assert (made.folder / path).stat().st_size == info.bytes, f"{path} is not whole"
        yield Delivery(sum(split.count for split in made.manifest.splits.values()))


class Theirs(SelfShuffling):
    """FFCV's DatasetWriter over the same files, fed by Pillow."""

    def __init__(self, mode: str, workload: Workload, folder: Path, threads: int) -> None:
        self.files: list[str] = []
        self.mode, self.folder, self.threads, self.resized = mode, folder, threads, workload.manifest.resized
        self.originals, self.labels = originals(workload)

    def epoch(self, number: int) -> Iterator[Delivery]:
        """All images."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            write_ffcv(self.mode, self.originals, self.labels, self.resized, self.threads, self.folder)
        store = open_beton(self.folder / "train.beton")
        assert np.array_equal(store.labels, self.labels), "the labels in the beton are not those given"
        yield Delivery(len(store.labels))


def start(
    name: str, dataset: str, workload: dict[str, Any], folder: str, threads: int
) -> tuple[Any, torch.device, None]:
    """In the candidate's process; see `process.Server`."""
    where, work = Path(folder), Workload(**workload)
    if name in OURS:
        return lambda: Ours(name, dataset, where, threads), torch.device("cpu"), None
    import ffcv  # noqa: F401  (its import is not in the clock)

    return lambda: Theirs(THEIRS[name], work, where, threads), torch.device("cpu"), None


def originals(workload: Workload) -> tuple[list[str], list[int]]:
    """Paths and labels of the images of all splits."""
    from trainer_classification.data.table import open_table

    files, labels = [], []
    for split in workload.manifest.splits:
        table = open_table(Path(workload.prepared), workload.manifest, split)
        files += [str(Path(workload.manifest.root) / name) for name in table.files]
        labels += table.labels.tolist()
    return files, labels
