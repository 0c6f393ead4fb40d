"""Write prepared datasets from arrays in memory, where there are no files to prepare. Needs torch and numpy only."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer_classification.data import array, manifest, table
from trainer_classification.data.manifest import FileInfo, Manifest, SplitInfo

_ORIGINAL_SIDE = 300  # px, the recorded side of the originals, where images are cropped and resized


def write_prepared(
    folder: Path,
    name: str,
    splits: Mapping[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]],
    train_size: int,
) -> Manifest:
    """Write arrays in the layout of `prepare`, without checksums.

    Args:
        folder: a new folder.
        name: name of the dataset, which selects its recipe.
        splits: name -> (images uint8 [N, S, S, C], labels int64 [N]).
        train_size: side of the batches in px. Images of another side count as
            resized, and are cropped.
    """
    (folder / "array").mkdir(parents=True)
    side, channels = splits["train"][0].shape[2:]
    resized = side != train_size
    classes = 1 + max(int(labels.max()) for _, labels in splits.values())
    names = []
    infos = {}
    for split, (images, labels) in splits.items():
        images.tofile(folder / array.path(split))
        sizes = np.full((len(labels), 2), _ORIGINAL_SIDE if resized else side, np.int32)
        table.save_table(
            folder, split, table.Table(labels, sizes, [f"{row}.jpg" for row in range(len(labels))])
        )
        names += [array.path(split), *table.paths(split)]
        infos[split] = SplitInfo(
            len(labels), "synthetic", np.bincount(labels, minlength=classes).tolist()
        )
    values: dict[str, Any] = {field.name: "" for field in dataclasses.fields(Manifest)}
    values |= {
        "dataset": name,
        "formats": {"array": {}},
        "class_names": [str(number) for number in range(classes)],
    }
    values |= {"splits": infos, "channels": channels, "image_size": side, "train_size": train_size}
    values |= {"resized": resized, "layout": "WHC" if resized else "HWC"}
    values |= {
        "mean": [0.5] * channels,
        "std": [0.29] * channels,
        "skipped": [],
        "unlabelled": 0,
        "duplicates": [],
    }
    values |= {
        "files": {name: FileInfo((folder / name).stat().st_size, "") for name in names},
        "options": {},
    }
    written = Manifest(**values | {"format_version": manifest.FORMAT_VERSION})
    written.write(folder)

    return written
