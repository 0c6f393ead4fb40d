"""Cut missing splits by the content of the images: adding images moves none of the others."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import xxhash

from trainer_classification.data.split_names import SPLITS, UNLABELED

TEST_FRACTION = 0.2
_HASH_SEEDS = {"test": 1, "validation": 2}  # fixed, so that every machine cuts alike
_ORDER = (*SPLITS, *UNLABELED)
_MIN_TO_SHARE = 3  # images of a class from which on it gives at least one


def cut_missing(
    splits: npt.NDArray[np.str_],
    labels: npt.NDArray[np.int64],
    hashes: npt.NDArray[np.bytes_],
    validation_fraction: float,
    test_fraction: float = TEST_FRACTION,
) -> tuple[npt.NDArray[np.str_], dict[str, str]]:
    """Cut test (`test_fraction` of train) and validation (`validation_fraction` of the rest) where they are missing.

    Images without a label are neither cut nor replaced: where test has no labels,
    no test is cut.

    Only a hash of its content decides about an image, so equal images stay
    together. Each class keeps its share on average. A class with three images or
    more gives at least one, and every class keeps at least one.

    Args:
        splits: str [n], of SPLITS and UNLABELED.
        labels: int64 [n]; -1: none.
        hashes: bytes [n], content hash of each image in hex digits.
        validation_fraction: 0: there is no validation split, and the dataset's
            own joins train.
        test_fraction: more than 0, because every training ends with a test.

    Returns:
        (splits, origin): str [n], and split -> whether it came with the dataset
        or how it was cut.

    Raises:
        ValueError: there is no train split.
    """
    splits = splits.astype("<U20")
    origin = {name: "dataset" for name in SPLITS if (splits == name).any()}
    origin |= {name: "dataset, without labels" for name in UNLABELED if (splits == name).any()}
    if "train" not in origin:
        raise ValueError(
            f"The dataset has no train split, only {', '.join(origin)}: there is nothing to train on."
        )

    if _lacks_test(origin):
        _cut(splits, labels, hashes, "test", test_fraction)
        origin["test"] = f"cut, {test_fraction:.0%} of train"

    if validation_fraction == 0:
        splits[splits == "validation"] = "train"
        if origin.pop("validation", ""):
            origin["train"] += " with validation"
    elif "validation" not in origin:
        _cut(splits, labels, hashes, "validation", validation_fraction)
        origin["validation"] = f"cut, {validation_fraction:.0%} of train"

    # A cut of few images may have taken none.
    return splits, {name: origin[name] for name in _ORDER if (splits == name).any()}


def are_missing(splits: npt.NDArray[np.str_], validation_fraction: float) -> bool:
    """Return whether `cut_missing` would cut."""
    existing = set(splits.tolist())
    return _lacks_test(existing) or (validation_fraction > 0 and "validation" not in existing)


def _lacks_test(existing: Collection[str]) -> bool:
    return "test" not in existing and "test_unlabeled" not in existing


def _cut(
    splits: npt.NDArray[np.str_],
    labels: npt.NDArray[np.int64],
    hashes: npt.NDArray[np.bytes_],
    name: str,
    fraction: float,
) -> None:
    """Move a fraction of train to the split `name`, in place."""
    train = np.flatnonzero(splits == "train")
    seed = _HASH_SEEDS[name]
    texts = hashes[train].astype("S32", copy=False).tolist()
    position = np.array([xxhash.xxh3_64_intdigest(text, seed) for text in texts], np.uint64)
    chosen = position < np.uint64(fraction * 2.0**64)

    # The classes one after the other, each from its lowest position to its
    # highest, and the other way round.
    ascending = np.lexsort((position, labels[train]))
    descending = np.lexsort((~position, labels[train]))
    starts = np.flatnonzero(np.diff(labels[train][ascending], prepend=np.iinfo(np.int64).min))
    members = np.diff(starts, append=len(train))
    taken = np.add.reduceat(chosen[ascending].astype(np.int64), starts)

    gives_none = (members >= _MIN_TO_SHARE) & (taken == 0)
    chosen[ascending[starts[gives_none]]] = True
    chosen[descending[starts[taken == members]]] = False
    splits[train[chosen]] = name
