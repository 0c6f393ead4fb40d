"""Evaluate a trained model on a split of a dataset."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer_classification.arrays import Bool
from trainer_classification.checkpoint.load_model import Model, load_model
from trainer_classification.checkpoint.model_id import model_id
from trainer_classification.inference.class_map import map_classes
from trainer_classification.inference.evaluated_dataset import DataOptions
from trainer_classification.inference.split_logits import SplitLogits, run_on_split
from trainer_classification.metrics.calibration import (
    BINS,
    calibration_error,
    confidence_of,
    cross_entropy,
)
from trainer_classification.metrics.classification import (
    average_classes,
    balanced_accuracy,
    count_confusion,
    rank_labels,
    wilson_interval,
)
from trainer_classification.metrics.comparison import Comparison, compare
from trainer_classification.metrics.confusion import Confusion
from trainer_classification.names import portable_path
from trainer_classification.outputs.class_tables import class_rows

_TOP = 5


@dataclass(frozen=True)
class EvaluationReport:
    """How a model does on the N images of a split, whose task has K classes.

    Attributes:
        model: file that the model was loaded from.
        model_id: of its weights.
        network: its name, such as "resnet18".
        dataset: name of the dataset.
        version: of the dataset.
        fingerprint: of the prepared dataset.
        task: name of the classification task.
        split: "train", "validation" or "test".
        eval_crop: what the model saw of each image, as `Recipe.eval_crop`.
        files: N paths of the original files.
        correct: bool [N], True where the prediction is right.
        class_names: of the columns of `confusion`; the first K are the dataset's
            classes, the rest the model's alone.
        confusion: [K, C], how often each class (row) was taken for each
            (column).
        averages: accuracy and averages over the classes, by the names of the
            SDK's `ClassificationMetrics`.
        top5_accuracy: share of images whose class is among the five with the
            highest logits.
        balanced_accuracy: mean recall of the classes with images.
        loss: mean cross entropy of the images whose class the model knows,
            without the temperature.
        temperature: that was fitted when the model was trained; None where it
            stores none.
        calibration_error: expected calibration error of the plain softmax.
        calibration_error_after: the same with the temperature; None without one.
        notes: what the reader should know, a sentence each.
    """

    model: str
    model_id: str
    network: str
    dataset: str
    version: str
    fingerprint: str
    task: str
    split: str
    eval_crop: float
    files: tuple[str, ...]
    correct: Bool
    class_names: tuple[str, ...]
    confusion: Confusion
    averages: dict[str, float]
    top5_accuracy: float
    balanced_accuracy: float
    loss: float
    temperature: float | None
    calibration_error: float
    calibration_error_after: float | None
    notes: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        """Share of images that are classified right."""
        return self.averages["accuracy"]

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the accuracy."""
        return wilson_interval(int(self.correct.sum()), len(self.correct))

    def to_json(self) -> dict[str, Any]:
        """Return all figures as JSON types; what cannot be measured is null.

        The N images are not listed.
        """
        left_out = ("files", "correct", "class_names", "confusion", "averages")
        plain = {
            field.name: _finite_or_none(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name not in left_out
        }
        rows = class_rows(self.confusion, self.class_names[: len(self.confusion)])

        return plain | {
            "model": portable_path(self.model),
            "images": len(self.correct),
            "metrics": self.averages,
            "accuracy_interval": list(self.accuracy_interval),
            "calibration_bins": BINS,
            "notes": list(self.notes),
            "per_class": {str(row.pop("class")): row for row in rows},
        }


def evaluate(
    model: Model | str | Path, dataset: str = "", split: str = "test", **options: Any
) -> EvaluationReport:
    """Evaluate a model on a split, in fp32 and one view an image; the dataset is prepared first if it is not yet.

    The classes of model and dataset are matched by name. Among equal logits the
    lowest class index wins.

    Args:
        model: a loaded model, or a path for `load_model`.
        dataset: name or folder of a Hafnia dataset, or a table; "": as for
            `DataOptions`.
        split: "train", "validation" or "test".
        **options: further fields of `DataOptions`, such as `device="cpu"` or
            `batch_size=64`.

    Raises:
        ValueError: there is no such model, dataset or split, the classes have
            nothing in common, or the images have more channels than the model
            takes.
    """
    loaded = model if isinstance(model, Model) else load_model(model)
    found = run_on_split(loaded, DataOptions(dataset=dataset, split=split, **options))

    return build_report(loaded, found, split)


def build_report(model: Model, found: SplitLogits, split: str) -> EvaluationReport:
    """Compute all figures from the logits of a split."""
    manifest = found.manifest
    classes = map_classes(model.class_names, manifest.class_names)
    labels = classes.output_of[found.labels]  # as outputs of the model, -1 where it has none
    ranks = rank_labels(found.logits, labels)
    predictions = found.logits.argmax(axis=1)
    confusion = count_confusion(
        found.labels,
        classes.column_of[predictions],
        len(manifest.class_names),
        len(classes.column_names),
    )
    correct = ranks == 0
    known = labels >= 0
    temperature = model.temperature

    return EvaluationReport(
        model=str(model.source),
        model_id=model_id(model.network.state_dict()),
        network=model.name,
        dataset=manifest.dataset,
        version=manifest.version,
        fingerprint=manifest.fingerprint,
        task=manifest.task,
        split=split,
        eval_crop=found.eval_crop,
        files=tuple(found.files),
        correct=correct,
        class_names=classes.column_names,
        confusion=confusion,
        averages=average_classes(confusion),
        top5_accuracy=float(np.mean(known & (ranks < _TOP))),
        balanced_accuracy=balanced_accuracy(confusion),
        loss=cross_entropy(found.logits[known], labels[known]),
        temperature=temperature,
        calibration_error=calibration_error(confidence_of(found.logits), correct),
        calibration_error_after=(
            None
            if temperature is None
            else calibration_error(confidence_of(found.logits, temperature), correct)
        ),
        notes=(*classes.notes, *_notes(model, found, split), *found.notes),
    )


def compare_reports(first: EvaluationReport, second: EvaluationReport) -> Comparison:
    """Test whether two models that were evaluated on the same images differ by more than chance.

    Raises:
        ValueError: they were evaluated on different images.
    """
    if sorted(first.files) != sorted(second.files):
        raise ValueError(
            f"The models were evaluated on different images ({first.dataset} {first.split} and {second.dataset} "
            f"{second.split}): evaluate both on one dataset and split."
        )
    second_correct = second.correct[np.argsort(second.files)]

    return compare(first.correct[np.argsort(first.files)], second_correct)


def _notes(model: Model, found: SplitLogits, split: str) -> list[str]:
    notes = []
    origin = found.manifest.splits[split].origin
    if origin != "dataset":
        notes.append(f"The split {split} did not come with the dataset: {origin}.")
    if split == "train":
        notes.append("These are training images, on which a model does better than on new ones.")
    if split == "validation" and model.temperature is not None:
        notes.append(
            "The temperature was fitted on a validation split: on the same images its calibration error looks too low."
        )
    gray_shift = found.manifest.gray_shift
    if gray_shift != model.gray_shift:
        notes.append(
            f"Gray images of 16 bits, where there are any, lost {gray_shift} bits here, but {model.gray_shift} in what "
            "the model was trained on: it sees them darker or brighter."
        )

    return notes


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
