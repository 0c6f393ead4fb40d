"""Prepared datasets made by hand, so that the engines are tested without `prepare`."""

from pathlib import Path

import numpy as np
import pytest

from trainer_classification.data import array
from trainer_classification.data.manifest import FileInfo, Manifest, SplitInfo
from trainer_classification.data.table import Table, write_table

COUNTS = {"train": 53, "test": 10}


def write_prepared(folder: Path, side: int, channels: int, resized: bool) -> Manifest:
    """A folder with array shards of random images of `side` px, and its manifest."""
    random = np.random.default_rng(side)
    (folder / "array").mkdir(parents=True)
    for split, count in COUNTS.items():
        random.integers(0, 256, (count, side, side, channels), dtype=np.uint8).tofile(folder / array.path(split))
        sizes = random.integers(side, 3 * side, (count, 2)).astype(np.int32)
        write_table(folder, split, Table(random.integers(0, 5, count), sizes, [f"{i}.png" for i in range(count)]))
    files = {str(path.relative_to(folder)): FileInfo(path.stat().st_size, "") for path in sorted(folder.glob("*/*"))}
    manifest = Manifest(
        dataset="made",
        version="1.0.0",
        task="image_classification",
        root=str(folder),
        formats={"array": {}},
        class_names=list("abcde"),
        splits={split: SplitInfo(count, "dataset", []) for split, count in COUNTS.items()},
        channels=channels,
        image_size=side,
        train_size=side * 4 // 5 if resized else side,
        resized=resized,
        layout="WHC" if resized else "HWC",
        mean=[0.5] * channels,
        std=[0.25] * channels,
        files=files,
        skipped=[],
        unlabelled=0,
        duplicates=[],
        options={},
        fingerprint="0" * 32,
    )
    manifest.write(folder)
    return manifest


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """20 px colour images kept at their size."""
    folder = tmp_path_factory.mktemp("small")
    return folder, write_prepared(folder, 20, 3, resized=False)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Images resized to 40 px, x first, for crops of 32 px."""
    folder = tmp_path_factory.mktemp("photos")
    return folder, write_prepared(folder, 40, 3, resized=True)
