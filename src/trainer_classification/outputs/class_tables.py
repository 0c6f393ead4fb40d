"""Write the metrics of each class, the confusion matrix, and likely wrong labels as CSV files."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer_classification.arrays import Int64
from trainer_classification.files import write_atomically
from trainer_classification.metrics.classification import measure_classes, wilson_interval
from trainer_classification.metrics.confusion_pairs import ConfusionPairs

_MAX_COLUMNS = 1000  # of a confusion matrix that is written as one

CLASS_COLUMNS = (
    *("class", "support", "predicted", "accuracy", "precision", "recall", "f1"),
    *("recall_low", "recall_high"),
)


@dataclass(frozen=True)
class LabelError:
    """An image whose label is likely wrong.

    Attributes:
        split: of the image.
        index: its sample number in the split.
        file: its original file, relative to the dataset's folder; "": not told.
        label: its class.
        suggested: the class that the model gives.
        confidence: of the model in it.
        label_probability: that the model gives to the label.
    """

    split: str
    index: int
    file: str
    label: str
    suggested: str
    confidence: float
    label_probability: float


def class_rows(confusion: Int64, class_names: Sequence[str]) -> list[dict[str, str | int | float]]:
    """Return the metrics of each class by the names of `CLASS_COLUMNS`, in the order of the classes.

    Args:
        confusion: int64 [K, C], rows are the true classes; columns beyond K
            belong to classes of the model alone.
        class_names: K names.

    Returns:
        K rows; recall_low and recall_high are the ends of the 95 % Wilson
        interval of the recall.
    """
    classes = measure_classes(confusion)
    rows: list[dict[str, str | int | float]] = []
    for index, name in enumerate(class_names):
        low, high = wilson_interval(int(classes.correct[index]), int(classes.support[index]))
        rows.append(
            {
                "class": name,
                "support": int(classes.support[index]),
                "predicted": int(classes.predicted[index]),
                "accuracy": float(classes.accuracy[index]),
                "precision": float(classes.precision[index]),
                "recall": float(classes.recall[index]),
                "f1": float(classes.f1[index]),
                "recall_low": low,
                "recall_high": high,
            }
        )

    return rows


def write_class_table(path: Path, confusion: Int64, class_names: Sequence[str]) -> Path:
    """Write one line for each class, as `class_rows` gives them."""
    rows = (row.values() for row in class_rows(confusion, class_names))
    return _write_csv(path, CLASS_COLUMNS, rows)


def write_confusion(path: Path, confusion: Int64, class_names: Sequence[str]) -> Path:
    """Write the confusion matrix: a line for each true class, a column for each predicted one.

    With more than 1,000 classes, whose matrix nobody opens and 21,841 of which
    would be a gigabyte, it is a line for each pair that occurs.

    Args:
        path: of the file.
        confusion: int64 [K, C].
        class_names: C names, of the columns; the first K are those of the rows.
    """
    if len(class_names) > _MAX_COLUMNS:
        pairs = ConfusionPairs.from_matrix(confusion)
        cells = zip(pairs.labels, pairs.predictions, pairs.counts, strict=True)
        lines = ([class_names[row], class_names[column], count] for row, column, count in cells)
        return _write_csv(path, ("class", "predicted", "images"), lines)
    rows = ([name, *counts] for name, counts in zip(class_names, confusion.tolist(), strict=False))
    return _write_csv(path, ("class", *class_names), rows)


def write_label_errors(path: Path, errors: Iterable[LabelError]) -> Path:
    """Write one line for each image, in the order given."""
    columns = [field.name for field in dataclasses.fields(LabelError)]
    return _write_csv(path, columns, map(dataclasses.astuple, errors))


def _write_csv(path: Path, header: Iterable[object], rows: Iterable[Iterable[object]]) -> Path:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return write_atomically(path, text.getvalue())
