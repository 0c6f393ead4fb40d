"""Make the report's tables of classes and confusions, bounded for any number of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainer_classification.metrics.classification import measure_classes, wilson_interval
from trainer_classification.metrics.confusion import ConfusionPairs
from trainer_classification.names import one_line
from trainer_classification.outputs.svg_charts import draw_interval

MAX_MATRIX = 30  # classes of a matrix that is shown as a whole, with names and numbers
MAX_ROWS = 1000  # classes in the table
_MAX_PAIRS = 20
_MAX_CELLS = 5000  # that the page names where the matrix is a picture
_FOCUS = 16  # classes of a matrix that shows the largest confusions only
_SHADES = 9
_LONGEST_LABEL = 22  # characters of a class name beside a matrix
_LONGEST_NAME = 48  # in a table


@dataclass(frozen=True)
class ClassRow:
    """Results of a class on test.

    Attributes:
        name: of the class.
        train: number of training images.
        test: number of test images.
        precision: share of the images with this prediction that are of the class.
        recall: share of the class's images that are found.
        low: lower end of the recall's 95 % Wilson interval.
        high: upper end of it.
        f1: harmonic mean of precision and recall.
        chart: SVG of the recall and its interval.
    """

    name: str
    train: int
    test: int
    precision: float
    recall: float
    low: float
    high: float
    f1: float
    chart: str


@dataclass(frozen=True)
class Pair:
    """A confusion: the true class, the predicted one, the images, and their share of the true class."""

    label: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix with names.

    Attributes:
        names: of rows and columns.
        rows: (images, shade) of each cell; the shade is 0 for none to 9 for the
            whole true class.
        is_whole: False where it shows only the classes of the largest confusions.
    """

    names: list[str]
    rows: list[list[tuple[int, int]]]
    is_whole: bool


def class_rows(
    confusion: ConfusionPairs, class_names: Sequence[str], train_counts: Sequence[int]
) -> list[ClassRow]:
    """Return the classes that have test images, the lowest F1 first; at most 1,000 of them.

    Args:
        confusion: of the test split.
        class_names: K names.
        train_counts: K numbers of training images.
    """
    found = measure_classes(confusion)
    support = found.support.tolist()
    present = [index for index, count in enumerate(support) if count > 0]
    f1 = found.f1.tolist()
    present.sort(key=lambda index: (f1[index], -support[index]))
    rows = []
    for index in present[:MAX_ROWS]:
        low, high = wilson_interval(int(found.correct[index]), support[index])
        recall = float(found.recall[index])
        rows.append(
            ClassRow(
                name=one_line(class_names[index], _LONGEST_NAME),
                train=train_counts[index],
                test=support[index],
                precision=float(found.precision[index]),
                recall=recall,
                low=low,
                high=high,
                f1=f1[index],
                chart=draw_interval(recall, low, high),
            )
        )

    return rows


def confused_pairs(confusion: ConfusionPairs, class_names: Sequence[str]) -> list[Pair]:
    """Return the largest confusions."""
    support = measure_classes(confusion).support
    pairs = []
    for label, prediction, count in confusion.mistakes():
        true = one_line(class_names[label], _LONGEST_NAME)
        predicted = one_line(class_names[prediction], _LONGEST_NAME)
        pairs.append(Pair(true, predicted, count, count / int(support[label])))
        if len(pairs) == _MAX_PAIRS:
            break

    return pairs


def make_matrix(confusion: ConfusionPairs, class_names: Sequence[str]) -> Matrix | None:
    """Return the whole matrix of few classes, or that of the classes with the largest confusions.

    Returns:
        None if there are many classes and none is confused.
    """
    is_whole = len(confusion) <= MAX_MATRIX
    classes = list(range(len(confusion))) if is_whole else _most_confused(confusion)
    if not classes:
        return None
    counts = confusion.matrix_of(classes)
    support = measure_classes(confusion).support[classes]
    rows = [
        [(count, _shade(count, int(total))) for count in row]
        for row, total in zip(counts.tolist(), support, strict=True)
    ]

    return Matrix(
        [one_line(class_names[index], _LONGEST_LABEL) for index in classes], rows, is_whole
    )


def _most_confused(confusion: ConfusionPairs) -> list[int]:
    """Return the classes of the largest confusions, each beside what it is taken for."""
    classes: list[int] = []
    for label, prediction, _ in confusion.mistakes():
        new = [index for index in (label, prediction) if index not in classes]
        if len(classes) + len(new) > _FOCUS:
            break
        # Beside the partner that is there already.
        known = next((index for index in (label, prediction) if index in classes), None)
        place = len(classes) if known is None else classes.index(known) + 1
        classes[place:place] = new

    return classes


def _shade(count: int, total: int) -> int:
    return 0 if count == 0 else max(1, round(count / total * _SHADES))


def describe_cells(
    confusion: ConfusionPairs, class_names: Sequence[str], block: int
) -> dict[str, Any]:
    """Return what the page needs to name the cell under the pointer, as JSON types.

    Args:
        confusion: of the test split.
        class_names: K names.
        block: classes that share a row or column of the picture.
    """
    mistakes = confusion.mistakes()
    cells = [list(cell) for cell, _ in zip(mistakes, range(_MAX_CELLS), strict=False)]
    support = measure_classes(confusion).support.tolist()
    names = [one_line(name, _LONGEST_NAME) for name in class_names]

    return {"names": names, "support": support, "cells": cells, "block": block}
