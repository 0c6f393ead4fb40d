"""Cut a dataset to a long tail: the training images of its classes fall off geometrically."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.caltech_protocol import write_splits
from trainer_classification.data.source import Source


def write(source: Source, ratio: int, classes: int, seed: int, root: Path) -> Path:
    """Write a dataset of the first classes of another one, whose last class has 1 / ratio of the first one's images.

    No file is copied. The test images stay; without any, those that do not train
    are tested.

    After Cui, Jia, Lin, Song and Belongie, "Class-balanced loss based on effective
    number of samples", arXiv 1901.05555.

    Args:
        source: the dataset.
        ratio: of the largest class over the smallest.
        classes: how many of its classes.
        seed: draws the training images.
        root: folder for such datasets.

    Returns:
        The folder of the new dataset in `root`.

    Raises:
        ValueError: a class has no training images.
    """
    splits = source.splits.astype(object)
    is_train = splits == "train"
    others = "" if (splits == "test").any() else "test"
    rng = np.random.default_rng(seed)
    counts = _count_kept(source, ratio, classes)
    for label, count in enumerate(counts):
        members = np.flatnonzero((source.labels == label) & is_train)
        splits[rng.permutation(members)[count:]] = others
    splits[source.labels >= classes] = ""

    folder = root / f"long-tail-{ratio}-of-{classes}-seed-{seed}" / source.name
    return write_splits(source, splits, source.class_names[:classes], folder)


def _count_kept(source: Source, ratio: int, classes: int) -> npt.NDArray[np.int64]:
    """Return the training images of each class that are kept."""
    is_train = source.splits == "train"
    available = np.bincount(source.labels[is_train], minlength=classes)[:classes]
    if available.min() == 0:
        raise ValueError(f"--long-tail: a class of {source.name} has no training images.")
    falls = ratio ** -np.linspace(0, 1, classes)

    return np.maximum(1, np.rint(available.min() * falls)).astype(np.int64)
