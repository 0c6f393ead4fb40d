"""What every candidate is given: the same images, output size, batch and augmentation."""

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

_LOOKED_AT = 1000  # images that the expected figures are computed from
_BY_THREADS = ("webdataset", "litdata")  # their writers make files for each worker


@dataclass(frozen=True)
class Workload:
    """JSON types alone, so that it can be sent to a process.

    Attributes:
        prepared: folder of a prepared dataset; its train split is delivered.
        scratch: folder for the candidates' own files.
        batch_size, threads: threads are worker processes for those that use processes.
        device: where the batches go.
        image_size: side in px of the batches.
    """

    prepared: str
    scratch: str
    batch_size: int
    threads: int
    device: str
    image_size: int

    @cached_property
    def manifest(self) -> Manifest:
        """Of the prepared dataset."""
        return manifest.read(Path(self.prepared))

    @cached_property
    def recipe(self) -> Recipe:
        """What the dataset trains with."""
        of = self.manifest
        return recipes.recipe_for(of.dataset, self.image_size, of.channels, self.count, of.resized)[0]

    @property
    def policy(self) -> Policy:
        """The recipe's augmentation."""
        return self.recipe.policy

    @property
    def count(self) -> int:
        """Images of the split, n."""
        return self.manifest.splits["train"].count

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """int64 [n]."""
        return open_table(Path(self.prepared), self.manifest, "train").labels

    @cached_property
    def files(self) -> list[str]:
        """Paths of the original files, n of them."""
        names = open_table(Path(self.prepared), self.manifest, "train").files
        return [str(Path(self.manifest.root) / name) for name in names]

    @cached_property
    def plan(self) -> Plan:
        """Order and draws, of seed 0."""
        sizes = open_table(Path(self.prepared), self.manifest, "train").sizes
        return Plan(self.count, 0, self.policy, sizes)

    @property
    def where(self) -> torch.device:
        """The device."""
        return torch.device(self.device)

    def folder(self, name: str) -> Path:
        """A candidate's own folder, which it may find filled by an earlier run of the same workload."""
        return Path(self.scratch) / (f"{name}-{self.threads}" if name in _BY_THREADS else name)

    @property
    def kept(self) -> Path:
        """Where `write_expected` keeps its figures: apart for each recipe's augmentation."""
        return self.folder(f"expected-{zlib.crc32(f'{self.policy} {self.image_size}'.encode()):08x}.json")

    def expected(self, missing: int) -> Expected:
        """What `write_expected` kept, for a candidate that may leave out so many images."""
        kept = json.loads(self.kept.read_text())
        return Expected(**kept, image_size=self.image_size, labels=self.labels, missing=missing)


def make_scratch_folder(root: Path, of: Manifest) -> Path:
    """A folder of its own for each prepared dataset."""
    folder = root / f"{of.dataset}-{of.train_size}px-{of.fingerprint[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_expected(workload: Workload) -> None:
    """Augment images of the original files by Pillow, as the plan says, and keep what is expected of any loader."""
    if workload.kept.is_file():
        return
    rows = np.unique(np.linspace(0, workload.count - 1, _LOOKED_AT).astype(np.int64))
    boxes = workload.plan.draws(0).box
    images = np.stack([_augmented(workload, int(row), boxes[row]) for row in rows])
    kept = grid(torch.from_numpy(images)).numpy().reshape(len(rows), -1)
    random = workload.policy.crop != "none" or workload.policy.flip != "none"
    brightness, labels, classes = kept.mean(axis=1), workload.labels[rows], int(workload.labels.max()) + 1
    figures = {
        "mean": float(images.mean()),
        "spread": float(images.std()),
        "distinct": distinct(kept),
        "random": random,
        "brightness": class_means(brightness, labels, classes).tolist(),
        "fit": fit(brightness[::2], labels[::2], class_means(brightness[1::2], labels[1::2], classes)),
    }
    workload.kept.write_text(json.dumps(figures))


def _augmented(workload: Workload, row: int, box: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """An original file's image, cropped as the plan's epoch 0 says: uint8 [T, T, C].

    Without flip and shift, which do not change the figures enough to matter.
    """
    from PIL import Image

    side, channels = workload.image_size, workload.manifest.channels
    with Image.open(workload.files[row]) as file:
        image = file.convert("L" if channels == 1 else "RGB")
    x, y, w, h = box.astype(np.float64) * np.array([image.width, image.height] * 2)
    corners = (x, y, min(x + w, image.width), min(y + h, image.height))
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box=corners))
    return pixels.reshape(side, side, channels)


def repeat_dataset(dataset: Path, images: int, root: Path) -> Path:
    """A dataset whose train split holds so many files of another's, repeated where it has fewer.

    The files are not copied; the table names each of them several times. One image is the test split, so that none is
    cut off.
    """
    import polars as pl

    table = pl.read_parquet(dataset / "annotations.parquet").filter(pl.col("split") == "train")
    test, table = table.head(1).with_columns(split=pl.lit("test", table["split"].dtype)), table.tail(-1)
    times = -(-images // len(table))
    target = root / f"{dataset.name}-{images}"
    if not (target / "annotations.parquet").is_file():
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        (target / "data").symlink_to((dataset / "data").absolute())
        shutil.copy(dataset / "dataset_info.json", target)
        pl.concat([test, pl.concat([table] * times).head(images)]).write_parquet(target / "annotations.parquet")
    return target


def as_arguments(workload: Workload) -> dict[str, Any]:
    """For the process of a candidate."""
    return dataclasses.asdict(workload)
