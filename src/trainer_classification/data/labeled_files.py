"""Labeled image files as a folder or a table lists them, and what a user should know of their labels."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from trainer_classification.arrays import Bool, Int8, Integers, Text
from trainer_classification.data.file_names import FileNames
from trainer_classification.data.split_names import ALL_SPLITS, NUMBER_OF, SPLITS, UNLABELED
from trainer_classification.names import list_names, printable

TASK = "image_classification"  # the name that the SDK gives to the only task
_MANY = 10  # classes, of which one can tell what they are
_SEPARATORS = "|;,"  # of several classes in one label
PREDICT_INSTEAD = "To classify images without labels, use predict.py with a trained model."


@dataclass(frozen=True)
class LabeledFiles:
    """Image files with one label each, or none.

    Attributes:
        name: of the dataset.
        root: folder that `files` are relative to.
        class_names: index = label.
        files: n paths; some may be absolute.
        split_numbers: int8 [n], of `ALL_SPLITS`; an image without a label is of
            one of UNLABELED.
        labels: int64 or int32 [n]; -1: none.
        unlabeled: images that have no label, also those that are left out.
        left_out: suffix -> files left out because they are no image that can be
            decoded; "" for no suffix.
        notes: what the user should know, a sentence each.
    """

    name: str
    root: Path
    class_names: list[str]
    files: FileNames
    split_numbers: Int8
    labels: Integers
    unlabeled: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def splits(self) -> Text:
        """Name of each image's split: str [n], made anew."""
        return np.array(ALL_SPLITS)[self.split_numbers]


def clean_label(text: str) -> str:
    """Return a label without blanks at its ends, in Unicode's composed form (NFC)."""
    return text.strip() if text.isascii() else printable(unicodedata.normalize("NFC", text)).strip()


def sort_classes(names: Iterable[str]) -> list[str]:
    """Return the distinct names in order; by value where all are whole numbers, so that label 10 is class 10."""
    distinct = set(names)
    if all(name.isdecimal() for name in distinct):
        return sorted(distinct, key=lambda name: (int(name), name))

    return sorted(distinct)


def note_cleaned(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Return a note of the labels that `clean_label` changed.

    Args:
        pairs: (as written, as taken) of each distinct label.
    """
    changed = [f"{written!r} as {taken!r}" for written, taken in pairs if written != taken]
    if not changed:
        return []

    return [
        "Labels with blanks at their ends or in another Unicode form are taken without them, in the composed form: "
        f"{list_names(changed)}."
    ]


def number_unlabeled(splits: Int8, is_labeled: Bool) -> Int8:
    """Return the splits of images of which some have no label, and so are of other splits.

    Args:
        splits: int8 [n], numbers in SPLITS, as given.
        is_labeled: bool [n].
    """
    return splits + np.int8(len(SPLITS)) * ~is_labeled


def note_unlabeled(splits: Int8) -> list[str]:
    """Say what becomes of images without a label.

    Args:
        splits: int8 [n], of `ALL_SPLITS`.
    """
    counts = {name: int((splits == NUMBER_OF[name]).sum()) for name in UNLABELED}
    kept = [f"{name} ({count:,})" for name, count in counts.items() if count]
    notes = []
    if kept:
        notes.append(
            f"Images without a label are kept as splits of their own, and predicted: {', '.join(kept)}."
        )
    if counts["test_unlabeled"] and not (splits == NUMBER_OF["test"]).any():
        notes.append(
            "The test split has no labels: no images are cut from train in its place, and there is no test accuracy."
        )
    return notes


def check_repeated(where: str, class_names: Sequence[str], labels: Integers) -> None:
    """Check that classes have more than one image.

    Args:
        where: table or folder.
        class_names: index = label.
        labels: int64 [n].

    Raises:
        ValueError: of many classes, none does.
    """
    if len(class_names) < _MANY or np.bincount(labels).max() > 1:
        return
    are_numbers = all(_as_number(name) is not None for name in class_names)
    reason = (
        " They look like measurements, and only classes are trained here: group them by ranges, as by pandas.cut."
        if are_numbers
        else ""
    )
    raise ValueError(
        f"{printable(where)} has {len(class_names)} classes of one image each ({list_names(class_names, 4)}), of which "
        f"nothing can be learned: several images must be of one class.{reason}"
    )


def note_labels(class_names: Sequence[str], labels: Integers, splits: Int8) -> list[str]:
    """Return warnings about classes, and what the figures of a training then mean.

    Args:
        class_names: index = label.
        labels: int64 [n].
        splits: int8 [n], numbers in SPLITS.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    present = np.flatnonzero(counts)
    if len(present) == 1:
        only = printable(class_names[int(present[0])])
        return [
            f"There is only one class, {only}: any model is right on every image, so 100 % accuracy says nothing."
        ]

    return [
        *_note_lacking(class_names, labels, splits),
        *_note_case(class_names),
        *_note_measurements(class_names, len(labels)),
        *_note_several(class_names),
    ]


def _note_lacking(class_names: Sequence[str], labels: Integers, splits: Int8) -> list[str]:
    """Warn of classes that validation or test have and train lacks."""
    trained = np.bincount(labels[splits == NUMBER_OF["train"]], minlength=len(class_names)) > 0
    notes = []
    for split in SPLITS[1:]:
        evaluated = labels[splits == NUMBER_OF[split]]
        known = trained[evaluated]
        if known.all():
            continue

        lacking = [class_names[label] for label in np.unique(evaluated[~known]).tolist()]
        notes.append(
            f"{split} has {len(lacking)} of {len(class_names)} classes that train lacks, which no model can learn: "
            f"{list_names(lacking)}. At most {known.mean():.1%} of {split} can be right."
        )

    return notes


def _note_case(class_names: Sequence[str]) -> list[str]:
    """Warn of classes whose names differ only in case."""
    alike: dict[str, list[str]] = {}
    for name in class_names:
        alike.setdefault(name.casefold(), []).append(name)

    pairs = [" and ".join(names) for names in alike.values() if len(names) > 1]
    if not pairs:
        return []

    return [
        f"Classes that differ only in case are kept apart: {list_names(pairs)}. Rename them if they are one class."
    ]


def _as_number(name: str) -> float | None:
    try:
        number = float(name)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _note_measurements(class_names: Sequence[str], count: int) -> list[str]:
    """Warn of labels that are numbers, and fractions or hardly ever the same.

    Args:
        class_names: index = label.
        count: labeled images.
    """
    numbers = [_as_number(name) for name in class_names]
    if len(numbers) < _MANY or None in numbers:
        return []
    has_fractions = any(number is not None and not number.is_integer() for number in numbers)
    if not has_fractions and 2 * len(numbers) <= count:
        return []

    return [
        f"The labels look like measurements: {len(numbers):,} different numbers on {count:,} images, as "
        f"{list_names(class_names, 3)}. Each is taken as a class of its own, as far from its neighbors as from any "
        "other: group them by ranges, as by pandas.cut."
    ]


def _note_several(class_names: Sequence[str]) -> list[str]:
    """Warn of labels that seem to be several classes, such as a|d beside a and d."""
    for separator in _SEPARATORS:
        parts = {
            name: [part.strip() for part in name.split(separator)]
            for name in class_names
            if separator in name
        }
        uses = Counter(part for name in class_names for part in parts.get(name, [name]))
        several = [name for name, its in parts.items() if all(uses[part] > 1 for part in its)]
        if several and 2 * len(several) >= len(parts):
            return [
                f"{len(several):,} of {len(class_names):,} labels seem to be several classes, with {separator} between "
                f"them: {list_names(several, 3)}. An image has one class here, so each combination is one of its own."
            ]
    return []
