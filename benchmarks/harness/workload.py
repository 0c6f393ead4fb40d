"""Describe the work that every candidate is given: the same images, output size, batch and augmentation."""

from __future__ import annotations

import dataclasses
import json
import shutil
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from harness.delivery import Expected, class_means, distinct, fit, grid
from trainer_classification import recipes
from trainer_classification.data import manifest
from trainer_classification.data.manifest import Manifest
from trainer_classification.data.table import open_table
from trainer_classification.plan import Plan, Policy
from trainer_classification.recipes import Recipe

_SAMPLED = 1000  # images from which the expected figures are computed
_BY_THREADS = ("webdataset", "litdata")  # their writers make files for each worker


@dataclass(frozen=True)
class Workload:
    """The work of a candidate.

    It has JSON types only, so that it can be sent to a worker.

    Attributes:
        prepared: folder of a prepared dataset, whose train split is delivered.
        scratch: folder for the candidates' own files.
        batch_size: images of a batch.
        threads: threads, or worker processes for the libraries that use
            processes.
        device: where the batches are delivered.
        image_size: side of the batches in px.
    """

    prepared: str
    scratch: str
    batch_size: int
    threads: int
    device: str
    image_size: int

    @cached_property
    def manifest(self) -> Manifest:
        """Manifest of the prepared dataset."""
        return manifest.read(Path(self.prepared))

    @cached_property
    def recipe(self) -> Recipe:
        """Recipe that the dataset trains with."""
        found = self.manifest
        return recipes.recipe_for(
            found.dataset, self.image_size, found.channels, self.count, found.resized
        )[0]

    @property
    def policy(self) -> Policy:
        """Augmentation of the recipe."""
        return self.recipe.policy

    @property
    def count(self) -> int:
        """Number of images n of the split."""
        return self.manifest.splits["train"].count

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """Labels of the split, int64 [n]."""
        return open_table(Path(self.prepared), self.manifest, "train").labels

    @cached_property
    def files(self) -> list[str]:
        """Paths of the n original files."""
        names = open_table(Path(self.prepared), self.manifest, "train").files
        return [str(Path(self.manifest.root) / name) for name in names]

    @cached_property
    def plan(self) -> Plan:
        """Order and draws of seed 0."""
        sizes = open_table(Path(self.prepared), self.manifest, "train").sizes
        return Plan(self.count, 0, self.policy, sizes)

    @property
    def torch_device(self) -> torch.device:
        """The device as torch has it."""
        return torch.device(self.device)

    def folder(self, name: str) -> Path:
        """Return a candidate's own folder, which an earlier run of the same workload may have filled."""
        return Path(self.scratch) / (f"{name}-{self.threads}" if name in _BY_THREADS else name)

    @property
    def expected_file(self) -> Path:
        """File of `write_expected`, one for each augmentation."""
        return self.folder(
            f"expected-{zlib.crc32(f'{self.policy} {self.image_size}'.encode()):08x}.json"
        )

    def expected(self, missing: int) -> Expected:
        """Return what `write_expected` computed, for a candidate that may leave out `missing` images."""
        figures = json.loads(self.expected_file.read_text())
        return Expected(**figures, image_size=self.image_size, labels=self.labels, missing=missing)


def make_scratch_folder(root: Path, prepared: Manifest) -> Path:
    """Make a folder for the files of one prepared dataset."""
    folder = root / f"{prepared.dataset}-{prepared.train_size}px-{prepared.fingerprint[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_expected(workload: Workload) -> None:
    """Augment original files with Pillow as planned, and write what is expected of any loader."""
    if workload.expected_file.is_file():
        return
    rows = np.unique(np.linspace(0, workload.count - 1, _SAMPLED).astype(np.int64))
    boxes = workload.plan.draws(0)[rows].box
    drawn = zip(rows.tolist(), boxes, strict=True)
    images = np.stack([_augment_original(workload, row, box) for row, box in drawn])
    kept = grid(torch.from_numpy(images)).numpy().reshape(len(rows), -1)
    random = workload.policy.crop != "none" or workload.policy.flip != "none"
    brightness = kept.mean(axis=1)
    labels = workload.labels[rows]
    classes = int(workload.labels.max()) + 1
    figures = {
        "mean": float(images.mean()),
        "spread": float(images.std()),
        "distinct": distinct(kept),
        "random": random,
        "brightness": class_means(brightness, labels, classes).tolist(),
        "fit": fit(
            brightness[::2], labels[::2], class_means(brightness[1::2], labels[1::2], classes)
        ),
    }
    workload.expected_file.write_text(json.dumps(figures))


def _augment_original(
    workload: Workload, row: int, box: npt.NDArray[np.float32]
) -> npt.NDArray[np.uint8]:
    """Return the image of an original file, cropped as in epoch 0 of the plan: uint8 [T, T, C].

    It is not flipped or shifted, since that hardly changes the figures.
    """
    from PIL import Image

    side = workload.image_size
    channels = workload.manifest.channels
    with Image.open(workload.files[row]) as file:
        image = file.convert("L" if channels == 1 else "RGB")
    x, y, w, h = box.astype(np.float64) * np.array([image.width, image.height] * 2)
    corners = (x, y, min(x + w, image.width), min(y + h, image.height))
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box=corners))

    return pixels.reshape(side, side, channels)


def repeat_dataset(dataset: Path, images: int, root: Path) -> Path:
    """Make a dataset whose train split names `images` files of another dataset, repeated where it has fewer.

    The files are not copied. One image becomes the test split, so that prepare
    does not split off any.

    Returns:
        Its folder in `root`.
    """
    import polars as pl

    table = pl.read_parquet(dataset / "annotations.parquet").filter(pl.col("split") == "train")
    test = table.head(1).with_columns(split=pl.lit("test", table["split"].dtype))
    table = table.tail(-1)
    times = -(-images // len(table))
    target = root / f"{dataset.name}-{images}"
    if not (target / "annotations.parquet").is_file():
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        (target / "data").symlink_to((dataset / "data").absolute())
        shutil.copy(dataset / "dataset_info.json", target)
        pl.concat([test, pl.concat([table] * times).head(images)]).write_parquet(
            target / "annotations.parquet"
        )
    return target


def as_arguments(workload: Workload) -> dict[str, Any]:
    """Return the workload as the arguments of a worker."""
    return dataclasses.asdict(workload)
