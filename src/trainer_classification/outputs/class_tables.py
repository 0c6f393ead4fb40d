"""Write the metrics of each class, the confusion matrix, and likely wrong labels as CSV files."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer_classification.files import write_atomically
from trainer_classification.metrics.classification import measure_classes, wilson_interval
from trainer_classification.metrics.confusion import Confusion, ConfusionPairs

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


def class_rows(
    confusion: Confusion, class_names: Sequence[str]
) -> list[dict[str, str | int | float]]:
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


def write_class_table(path: Path, confusion: Confusion, class_names: Sequence[str]) -> Path:
    """Write one line for each class, as `class_rows` gives them."""
    rows = (row.values() for row in class_rows(confusion, class_names))
    return _write_csv(path, CLASS_COLUMNS, rows)


def write_confusion(path: Path, confusion: Confusion, class_names: Sequence[str]) -> Path:
    """Write the confusion matrix: a line for each true class, a column for each predicted one.

    Where it is held as pairs, only these are written: a line for each true and
    predicted class that images have.

    Args:
        path: of the file.
        confusion: [K, C].
        class_names: C names, of the columns; the first K are those of the rows.
    """
    if isinstance(confusion, ConfusionPairs):
        columns = (confusion.true, confusion.predicted, confusion.count)
        cells = zip(*(column.tolist() for column in columns), strict=True)
        named = (
            (class_names[true], class_names[predicted], count) for true, predicted, count in cells
        )
        return _write_csv(path, ("class", "predicted_class", "images"), named)
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
