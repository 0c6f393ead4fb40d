"""Write predictions as the platform reads them: a Hafnia dataset with a further task."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer_classification.data import hafnia_table
from trainer_classification.data.manifest import Manifest
from trainer_classification.data.table import Table

if TYPE_CHECKING:
    import polars as pl
    from hafnia.dataset.hafnia_dataset import HafniaDataset

POSTFIX = "/predictions"  # of the task's name, as the SDK's TASK_NAME_PREDICTIONS_POSTFIX
META = "predictions"  # key in the dataset's meta that says what made them
_COLUMN = "classifications"
_FIELDS = ("class_name", "class_idx", "confidence", "ground_truth", "task_name")

Predicted = tuple[str, float]  # class and confidence


def make_task(name: str, class_names: Sequence[str]) -> Any:
    """Return the SDK's description of a classification task."""
    from hafnia.dataset.hafnia_dataset_types import TaskInfo
    from hafnia.dataset.primitives import Classification

    return TaskInfo.from_class_names(Classification, list(class_names), name)


def write_with_predictions(
    dataset: HafniaDataset,
    task: str,
    class_names: Sequence[str],
    predictions: Sequence[Predicted | None],
    folder: Path,
    *,
    origin: dict[str, str],
) -> None:
    """Write a dataset with a further task of predictions, for the SDK's `HafniaDataset.from_path`.

    No images are written, and no paths of images. `dataset_info.json`, without
    which the SDK reads nothing, comes last: what can be read is complete.

    Args:
        dataset: N rows; it is not changed.
        task: that is predicted; that of the predictions has "/predictions" behind
            its name.
        class_names: of the predictions' task, in order.
        predictions: N of them; None where an image could not be read.
        folder: made if it is not there.
        origin: what made the predictions, for the dataset's meta.
    """
    from hafnia.dataset.hafnia_dataset import HafniaDataset

    info = dataset.info.model_copy(deep=True)
    info.tasks.append(make_task(task + POSTFIX, class_names))
    info.meta = (info.meta or {}) | {META: origin}
    column = _with_predictions(dataset.samples, predictions, task + POSTFIX, class_names)
    samples = dataset.samples.with_columns(column).drop("file_path", strict=False)

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary:
        HafniaDataset(info=info, samples=samples).write_annotations(Path(temporary))
        (folder / hafnia_table.INFO).unlink(missing_ok=True)
        for path in sorted(
            Path(temporary).iterdir(), key=lambda path: path.name == hafnia_table.INFO
        ):
            path.replace(folder / path.name)


def rows_of_split(manifest: Manifest, split: str, table: Table) -> tuple[HafniaDataset, list[bool]]:
    """Return a split as the dataset has it, images that could not be prepared included.

    The rows of a Hafnia dataset keep all their columns. For other sources, rows
    are made that name the file in their meta.

    Args:
        manifest: of the prepared dataset.
        split: its name.
        table: of the split.

    Returns:
        (dataset, is_prepared): the images of the table in its order, then the
        others; True for the former.
    """
    skipped = [entry["file"] for entry in manifest.skipped if entry["split"] == split]
    files = [*table.files, *skipped]
    is_prepared = [True] * len(table.files) + [False] * len(skipped)
    dataset = _original_rows(manifest, files)
    if dataset is None:
        sizes = [*table.sizes.tolist(), *([[0, 0]] * len(skipped))]
        dataset = _make_rows(manifest, split, files, sizes)

    return dataset, is_prepared


def _original_rows(manifest: Manifest, files: Sequence[str]) -> HafniaDataset | None:
    """Return the rows of a Hafnia dataset that name these files; None if it is none, or has predictions already."""
    from hafnia.dataset.hafnia_dataset import HafniaDataset

    root = Path(manifest.root)
    if not (root / hafnia_table.INFO).is_file():
        return None
    dataset = HafniaDataset.from_path(root, check_for_images=False)
    prefix = f"{root.absolute().as_posix()}/"
    places = {
        path.removeprefix(prefix): row
        for row, path in enumerate(dataset.samples["file_path"].to_list())
    }
    is_predicted = any(task.name == manifest.task + POSTFIX for task in dataset.info.tasks)
    if is_predicted or not all(file in places for file in files):
        return None

    return HafniaDataset(
        info=dataset.info, samples=dataset.samples[[places[file] for file in files]]
    )


def _make_rows(
    manifest: Manifest, split: str, files: Sequence[str], sizes: Sequence[Sequence[int]]
) -> HafniaDataset:
    """Return rows for the images of a folder or a table of paths."""
    from hafnia.dataset.hafnia_dataset import HafniaDataset
    from hafnia.dataset.hafnia_dataset_types import DatasetInfo, Sample

    info = DatasetInfo(
        dataset_name=manifest.dataset,
        version=manifest.version,
        tasks=[make_task(manifest.task, manifest.class_names)],
    )
    samples = [
        Sample(
            file_path=file,
            width=width,
            height=height,
            split=split.removesuffix("_unlabeled"),
            meta={"path": file},
        )
        for file, (width, height) in zip(files, sizes, strict=True)
    ]

    return HafniaDataset.from_samples_list(samples, info=info)


def _with_predictions(
    samples: pl.DataFrame,
    predictions: Sequence[Predicted | None],
    task: str,
    class_names: Sequence[str],
) -> pl.Series:
    """Return the column of classifications, with a predicted one for each image that could be read."""
    import polars as pl

    index = {name: number for number, name in enumerate(class_names)}
    there = samples[_COLUMN].to_list() if _COLUMN in samples.columns else [[]] * len(samples)
    rows = []
    for entries, prediction in zip(there, predictions, strict=True):
        row = [_with_defaults(entry) for entry in entries or []]
        if prediction is not None:
            name, confidence = prediction
            values = (name, index[name], confidence, False, task)
            row.append(dict(zip(_FIELDS, values, strict=True)))
        rows.append(row)
    types = dict(
        zip(_FIELDS, (pl.String, pl.Int64, pl.Float64, pl.Boolean, pl.String), strict=True)
    )

    return pl.Series(_COLUMN, rows, pl.List(pl.Struct(_fields_of(samples) | types)))


def _fields_of(samples: pl.DataFrame) -> dict[str, Any]:
    """Return the fields of the classifications that are there, with their types."""
    import polars as pl

    kind = samples.schema.get(_COLUMN)
    inner = kind.inner if isinstance(kind, pl.List) else None
    return (
        {field.name: field.dtype for field in inner.fields} if isinstance(inner, pl.Struct) else {}
    )


def _with_defaults(entry: dict[str, Any]) -> dict[str, Any]:
    """Return a label with the fields that predictions need, as the SDK sets them."""
    defaults = {"confidence": 1.0, "ground_truth": True}
    return entry | {name: value for name, value in defaults.items() if entry.get(name) is None}
