"""Cutting missing splits, by the content of the images: adding images moves none of the others."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xxhash

TEST_FRACTION = 0.2
_SEEDS = {"test": 1, "validation": 2}  # of the hashes: fixed, so that every machine cuts alike


def cut_missing(
    splits: npt.NDArray[np.str_],
    labels: npt.NDArray[np.int64],
    hashes: npt.NDArray[np.str_],
    validation_fraction: float,
    test_fraction: float = TEST_FRACTION,
) -> tuple[npt.NDArray[np.str_], dict[str, str]]:
    """Cut test (`test_fraction` of train) and validation (`validation_fraction` of what is left) where there is none.

    An image goes by a hash of its content alone, so that equal images stay together; the share of each class is kept
    on average. A class with three images or more gives at least one, and keeps at least one.

    Args:
        splits: str [n], "train", "validation" or "test".
        labels: int64 [n].
        hashes: str [n], content hash of each image.
        validation_fraction: 0: no validation split, and the dataset's own joins train.
        test_fraction: more than 0, as every training ends with a test.

    Returns:
        (splits, origin): str [n], and for each split there is whether it is the dataset's or how it was cut.

    Raises:
        ValueError: there is no train split.
    """
    splits = splits.astype("<U10")
    origin = {name: "dataset" for name in ("train", "validation", "test") if (splits == name).any()}
    if "train" not in origin:
        raise ValueError(f"The dataset has no train split, only {', '.join(origin)}: there is nothing to train on.")
    if "test" not in origin:
        _cut(splits, labels, hashes, "test", test_fraction)
        origin["test"] = f"cut, {test_fraction:.0%} of train"
    if validation_fraction == 0:
        splits[splits == "validation"] = "train"
        origin["train"] += " with validation" if origin.pop("validation", "") else ""
    elif "validation" not in origin:
        _cut(splits, labels, hashes, "validation", validation_fraction)
        origin["validation"] = f"cut, {validation_fraction:.0%} of train"
    there = ("train", "validation", "test")
    return splits, {name: origin[name] for name in there if (splits == name).any()}


def are_missing(splits: npt.NDArray[np.str_], validation_fraction: float) -> bool:
    """Whether `cut_missing` would cut."""
    there = set(splits.tolist())
    return "test" not in there or (validation_fraction > 0 and "validation" not in there)


def _cut(
    splits: npt.NDArray[np.str_],
    labels: npt.NDArray[np.int64],
    hashes: npt.NDArray[np.str_],
    name: str,
    fraction: float,
) -> None:
    """Move a share of train to `name`, in place."""
    train = np.flatnonzero(splits == "train")
    position = np.array(
        [xxhash.xxh3_64_intdigest(text.encode(), _SEEDS[name]) for text in hashes[train].tolist()], np.uint64
    )
    chosen = position < np.uint64(fraction * 2.0**64)
    for label in np.unique(labels[train]):
        members = np.flatnonzero(labels[train] == label)
        if len(members) >= 3 and not chosen[members].any():
            chosen[members[position[members].argmin()]] = True
        elif chosen[members].all():
            chosen[members[position[members].argmax()]] = False
    splits[train[chosen]] = name
