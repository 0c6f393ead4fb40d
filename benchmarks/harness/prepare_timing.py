"""Prepare and FFCV's writer as candidates.

An epoch writes the whole dataset from the original files.
"""

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

_SIDE = 256  # px, the longest side in the betons of both
OURS: dict[str, dict[str, Any]] = {
    "array": {"formats": "array"},
    "beton-raw": {"formats": "beton", "beton_mode": "raw", "beton_side": _SIDE},
    "beton-jpg": {"formats": "beton", "beton_mode": "jpg", "beton_side": _SIDE},
    "tar": {"formats": "tar"},
    "all": {"formats": "array,beton,tar", "beton_mode": "jpg", "beton_side": _SIDE},
}
THEIRS = {"ffcv-raw": "raw", "ffcv-jpg": "jpg"}


class Ours(SelfShuffling):
    """Run `prepare` with all its checks, into an empty folder.

    Args:
        name: a key of `OURS`.
        dataset: name or folder of the dataset.
        folder: where to write.
        threads: worker processes.
    """

    def __init__(self, name: str, dataset: str, folder: Path, threads: int) -> None:
        self.files: list[str] = []
        self.folder = folder
        self.config = PrepareConfig(
            dataset=dataset,
            prepared=str(folder),
            validation_fraction=0.0,
            workers=threads,
            **OURS[name],
        )

    def epoch(self, number: int) -> Iterator[Delivery]:
        """Prepare all images of all splits."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with open(os.devnull, "w") as devnull, contextlib.redirect_stderr(devnull):
            prepared = prepare(self.config)
        kinds = set(self.config.formats.split(","))
        manifest = prepared.manifest
        assert kinds == set(manifest.formats), (
            f"{sorted(manifest.formats)} were written, not {sorted(kinds)}"
        )
        for path, info in manifest.files.items():
            assert (prepared.folder / path).stat().st_size == info.bytes, f"{path} is incomplete"
        yield Delivery(manifest.count)


class Theirs(SelfShuffling):
    """Run FFCV's DatasetWriter over the same files, fed by Pillow.

    Args:
        mode: write mode of the images, "raw" or "jpg".
        workload: gives the files and their labels.
        folder: where to write.
        threads: worker processes.
    """

    def __init__(self, mode: str, workload: Workload, folder: Path, threads: int) -> None:
        self.files: list[str] = []
        self.mode = mode
        self.folder = folder
        self.threads = threads
        self.resized = workload.manifest.resized
        self.originals, self.labels = list_originals(workload)

    def epoch(self, number: int) -> Iterator[Delivery]:
        """Write all images of all splits."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        with open(os.devnull, "w") as devnull, contextlib.redirect_stderr(devnull):
            write_ffcv(
                self.mode,
                self.originals,
                self.labels,
                self.folder,
                resized=self.resized,
                threads=self.threads,
            )
        store = open_beton(self.folder / "train.beton")
        assert np.array_equal(store.labels, self.labels), (
            "the beton holds other labels than it was given"
        )
        yield Delivery(len(store.labels))


def start(
    name: str, dataset: str, workload: dict[str, Any], folder: str, threads: int
) -> tuple[Any, torch.device, None]:
    """Import what a candidate needs in its worker.

    See `worker.Server` for what is returned.
    """
    target = Path(folder)
    work = Workload(**workload)
    cpu = torch.device("cpu")
    if name in OURS:
        return lambda: Ours(name, dataset, target, threads), cpu, None

    import ffcv  # noqa: F401  # its import is not timed

    return lambda: Theirs(THEIRS[name], work, target, threads), cpu, None


def list_originals(workload: Workload) -> tuple[list[str], list[int]]:
    """Return the paths and labels of the images of all splits."""
    from trainer_classification.data.table import open_table

    files = []
    labels = []
    for split in workload.manifest.splits:
        table = open_table(Path(workload.prepared), workload.manifest, split)
        files += [str(Path(workload.manifest.root) / name) for name in table.files]
        labels += table.labels.tolist()
    return files, labels
