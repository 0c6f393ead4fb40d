"""Cut missing splits by the content of the images: adding images moves none of the others."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import numpy.typing as npt
import xxhash

from trainer_classification.arrays import Int8, Integers
from trainer_classification.data.split_names import ALL_SPLITS, NUMBER_OF, SPLITS, UNLABELED
from trainer_classification.preparation.content_hash import to_hex

TEST_FRACTION = 0.2
_HASH_SEEDS = {"test": 1, "validation": 2}  # fixed, so that every machine cuts alike
_ROWS_AT_ONCE = 1 << 13
_MIN_TO_SHARE = 3  # images of a class from which on it gives at least one


def cut_missing(
    splits: Int8,
    labels: Integers,
    hashes: npt.NDArray[np.bytes_],
    validation_fraction: float,
    test_fraction: float = TEST_FRACTION,
) -> tuple[Int8, dict[str, str]]:
    """Cut test (`test_fraction` of train) and validation (`validation_fraction` of the rest) where they are missing.

    Images without a label are neither cut nor replaced: where test has no labels,
    no test is cut.

    Only a hash of its content decides about an image, so equal images stay
    together. Each class keeps its share on average. A class with three images or
    more gives at least one, and every class keeps at least one.

    Args:
        splits: int8 [n], of `ALL_SPLITS`.
        labels: integers [n]; -1: none.
        hashes: HASH [n], of each image's content.
        validation_fraction: 0: there is no validation split, and the dataset's
            own joins train.
        test_fraction: more than 0, because every training ends with a test.

    Returns:
        (splits, origin): int8 [n], and split -> whether it came with the dataset
        or how it was cut.

    Raises:
        ValueError: there is no train split.
    """
    splits = splits.copy()
    origin = {name: "dataset" for name in SPLITS if _has(splits, name)}
    origin |= {name: "dataset, without labels" for name in UNLABELED if _has(splits, name)}
    if "train" not in origin:
        raise ValueError(
            f"The dataset has no train split, only {', '.join(origin)}: there is nothing to train on."
        )

    if _lacks_test(origin):
        _cut(splits, labels, hashes, "test", test_fraction)
        origin["test"] = f"cut, {test_fraction:.0%} of train"

    if validation_fraction == 0:
        splits[splits == NUMBER_OF["validation"]] = NUMBER_OF["train"]
        if origin.pop("validation", ""):
            origin["train"] += " with validation"
    elif "validation" not in origin:
        _cut(splits, labels, hashes, "validation", validation_fraction)
        origin["validation"] = f"cut, {validation_fraction:.0%} of train"

    # A cut of few images may have taken none.
    return splits, {name: origin[name] for name in ALL_SPLITS if _has(splits, name)}


def _has(splits: Int8, name: str) -> bool:
    return bool((splits == NUMBER_OF[name]).any())


def are_missing(splits: Int8, validation_fraction: float) -> bool:
    """Return whether `cut_missing` would cut."""
    existing = [name for name in ALL_SPLITS if _has(splits, name)]
    return _lacks_test(existing) or (validation_fraction > 0 and "validation" not in existing)


def _lacks_test(existing: Collection[str]) -> bool:
    return "test" not in existing and "test_unlabeled" not in existing


def _list_texts(hashes: npt.NDArray[np.bytes_], rows: npt.NDArray[np.int64]) -> Iterator[bytes]:
    """Yield the hashes of some rows in hex digits, with few of them in memory as objects."""
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        yield from to_hex(hashes[rows[start : start + _ROWS_AT_ONCE]]).tolist()


def _cut(
    splits: Int8,
    labels: Integers,
    hashes: npt.NDArray[np.bytes_],
    name: str,
    fraction: float,
) -> None:
    """Move a fraction of train to the split `name`, in place."""
    train = np.flatnonzero(splits == NUMBER_OF["train"])
    seed = _HASH_SEEDS[name]
    digests = (xxhash.xxh3_64_intdigest(text, seed) for text in _list_texts(hashes, train))
    position = np.fromiter(digests, np.uint64, len(train))
    chosen = position < np.uint64(fraction * 2.0**64)

    class_of = labels[train]
    count = int(class_of.max()) + 1
    members = np.bincount(class_of, minlength=count)
    taken = np.bincount(class_of[chosen], minlength=count)
    lowest = np.full(count, np.iinfo(np.uint64).max)
    np.minimum.at(lowest, class_of, position)
    highest = np.zeros(count, np.uint64)
    np.maximum.at(highest, class_of, position)

    gives_none = (members >= _MIN_TO_SHARE) & (taken == 0)
    gives_all = (members > 0) & (taken == members)
    chosen[_first_of_classes(class_of, position == lowest[class_of], count)[gives_none]] = True
    chosen[_first_of_classes(class_of, position == highest[class_of], count)[gives_all]] = False
    splits[train[chosen]] = NUMBER_OF[name]


def _first_of_classes(
    class_of: Integers, is_match: npt.NDArray[np.bool_], count: int
) -> npt.NDArray[np.int64]:
    """Return the first row of each class that matches, int64 [count]; 0 for a class without one."""
    rows = np.flatnonzero(is_match)[::-1]
    first = np.zeros(count, np.int64)
    first[class_of[rows]] = rows  # of several rows of a class, the last that is written stays
    return first
