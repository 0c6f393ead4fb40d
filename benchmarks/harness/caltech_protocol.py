"""Split a dataset by the protocol of Caltech-101: N images of each class train, all others test."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer_classification.data.source import Source


def write(source: Source, per_class: int, seed: int, root: Path) -> Path:
    """Write a dataset of the same name and files with the splits of the protocol.

    No file is copied.

    After Fei-Fei, Fergus and Perona, "Learning generative visual models from few
    training examples" (2004), and the papers since, which train on 30 images a
    class, test on the rest, and give the mean of the classes' accuracies.

    Args:
        source: the dataset, whose own splits are ignored.
        per_class: training images of each class.
        seed: draws them.
        root: folder for such datasets.

    Returns:
        The folder of the new dataset in `root`.

    Raises:
        ValueError: a class has no image left to test.
    """
    train = _draw_training_images(source, per_class, seed)
    folder = root / f"{per_class}-per-class-seed-{seed}" / source.name
    splits = np.where(train, "train", "test").astype(object)

    return write_splits(source, splits, source.class_names, folder)


def write_splits(
    source: Source, splits: npt.NDArray[np.object_], class_names: list[str], folder: Path
) -> Path:
    """Write a dataset of the files of another one with splits of its own.

    Args:
        source: the dataset.
        splits: object [n], the split of each image; "" leaves it out.
        class_names: of those that are used, the first of the source's.
        folder: of the new dataset.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    classes = [{"name": name} for name in class_names]
    task = {"primitive": "Classification", "name": source.task, "classes": classes}
    info = {"dataset_name": source.name, "version": source.version, "tasks": [task]}
    rows = (
        {
            "file_path": str(Path(path).absolute()),
            "split": split,
            "width": int(size[0]),
            "height": int(size[1]),
            "classifications": [
                {"task_name": source.task, "class_name": source.class_names[label]}
            ],
        }
        for path, split, size, label in zip(
            source.paths, splits, source.sizes, source.labels, strict=True
        )
        if split
    )
    (folder / "annotations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "dataset_info.json").write_text(json.dumps(info))

    return folder


def _draw_training_images(source: Source, per_class: int, seed: int) -> npt.NDArray[np.bool_]:
    """Draw `per_class` images of each class.

    Returns bool [n], True for those that train.
    """
    rng = np.random.default_rng(seed)
    train = np.zeros(len(source.labels), bool)
    for label in np.unique(source.labels):
        members = np.flatnonzero(source.labels == label)
        if len(members) <= per_class:
            raise ValueError(
                f"--per-class {per_class}: the class {source.class_names[label]} has only {len(members)} images, so "
                f"none is left to test. Give at most {len(members) - 1}."
            )
        train[rng.permutation(members)[:per_class]] = True

    return train
