"""Read the two files of a Hafnia dataset, and check what its table says; each error names file, row and remedy."""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer_classification.arrays import Int32
from trainer_classification.data.labeled_files import clean_label
from trainer_classification.data.split_names import SPLITS, find_split
from trainer_classification.files import parse_json
from trainer_classification.names import list_names

if TYPE_CHECKING:
    import polars as pl

INFO = "dataset_info.json"
TABLES = ("annotations.parquet", "annotations.jsonl")
_AGAIN = "download the dataset again, or correct the file"
_FIELDS = {  # of a label, and of which kind they must be
    "class_name": "text",
    "task_name": "text",
    "class_idx": "a number",
    "ground_truth": "true or false",
}
_ROWS_AT_ONCE = 1 << 16
_SAMPLED = 256  # images whose heads are compared with the table's sizes


def read_info(path: Path) -> dict[str, Any]:
    """Read dataset_info.json.

    Raises:
        ValueError: it is no JSON, begins with a byte-order mark, or lacks what
            every Hafnia dataset has.
    """
    data = path.read_bytes()
    _check_no_mark(path, data)
    try:
        info = parse_json(data)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}, line {error.lineno} is not JSON ({error.msg}, column {error.colno}): {_AGAIN}."
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason}): {_AGAIN}.") from None
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}): {_AGAIN}.") from None

    for key, kind in (("dataset_name", str), ("tasks", list)):
        if not isinstance(info, dict) or not isinstance(info.get(key), kind):
            raise ValueError(
                f"{path} has no {key!r}, as the file of a Hafnia dataset has: {_AGAIN}."
            )
    if not isinstance(info.get("version") or "", str):
        raise ValueError(f"{path} has the version {info['version']!r}, no text: {_AGAIN}.")
    for number, task in enumerate(info["tasks"], 1):
        if not _is_task(task):
            raise ValueError(
                f"{path}: task {number} lacks its name, its primitive or the name of a class: {_AGAIN}."
            )

    return info


def _check_no_mark(path: Path, data: bytes) -> None:
    """Raise ValueError if a text file begins with a byte-order mark."""
    if data.startswith(b"\xef\xbb\xbf"):
        raise ValueError(
            f"{path}, line 1 begins with a byte-order mark (BOM): save it as UTF-8 without one."
        )


def _is_task(task: Any) -> bool:
    """Return True for a task with a name, a primitive and, where it has classes, a name of each."""
    if (
        not isinstance(task, dict)
        or not isinstance(task.get("name"), str)
        or "primitive" not in task
    ):
        return False

    classes = task.get("classes") or []
    return isinstance(classes, list) and all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in classes
    )


@dataclass(frozen=True)
class AnnotationTable:
    """The table of a Hafnia dataset.

    Attributes:
        frame: the table, which may not be read yet.
        path: what it is read from, for messages.
    """

    frame: pl.LazyFrame
    path: Path

    @cached_property
    def schema(self) -> pl.Schema:
        """The columns and their types.

        Raises:
            ValueError: the file is broken.
        """
        with _naming(self.path):
            return self.frame.collect_schema()

    def slices(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Yield some columns of all rows in order, some at a time: a whole table takes many times what is needed.

        Args:
            columns: their names; those that are not there are left out.

        Raises:
            ValueError: the file is broken.
        """
        chosen = self.frame.select([name for name in columns if name in self.schema])
        start = 0
        while True:
            with _naming(self.path):
                part = chosen.slice(start, _ROWS_AT_ONCE).collect()
            if start and not len(part):
                return
            yield part
            start += _ROWS_AT_ONCE


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Raise ValueError, which names the file, in place of what polars raises about it."""
    import polars as pl

    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{path} is cut short or broken ({reason}): {_AGAIN}.") from error


def open_annotations(folder: Path) -> AnnotationTable:
    """Open the table of a Hafnia dataset.

    Raises:
        ValueError: there is none, or it is broken.
    """
    import polars as pl

    for name in TABLES:
        path = folder / name
        if not path.is_file():
            continue
        with _naming(path):
            is_parquet = path.suffix == ".parquet"
            frame = pl.scan_parquet(path, glob=False) if is_parquet else _read_json_lines(path)
            return AnnotationTable(frame, path)

    raise ValueError(f"{folder} has neither {' nor '.join(TABLES)}: download the dataset again.")


def _read_json_lines(path: Path) -> pl.LazyFrame:
    import polars as pl

    try:
        return pl.read_ndjson(path, infer_schema_length=None).lazy()
    except (pl.exceptions.PolarsError, OSError):
        data = path.read_bytes()
        _check_no_mark(path, data)
        for number, line in enumerate(data.split(b"\n"), 1):
            try:
                row = parse_json(line or b"{}")
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {number} is not JSON ({error}): {_AGAIN}."
                ) from None
            if not isinstance(row, dict):
                raise ValueError(
                    f"{path}, line {number} is a {type(row).__name__}, not an object: {_AGAIN}."
                ) from None
        raise


def check_class_names(names: Sequence[str], where: str) -> None:
    """Check that each class has a name, and no other has it.

    Args:
        names: of the classes, in order.
        where: the file that lists them.

    Raises:
        ValueError: names the first that is wrong, and its places.
    """
    unnamed = next((number for number, name in enumerate(names) if not name.strip()), None)
    if unnamed is not None:
        raise ValueError(
            f"{where} lists a class without a name, with the index {unnamed}: name it."
        )
    repeated = next((name for name, count in Counter(names).items() if count > 1), None)
    if repeated is not None:
        places = [number for number, name in enumerate(names) if name == repeated]
        raise ValueError(
            f"{where} lists the class {repeated!r} {len(places)} times, with the indices "
            f"{' and '.join(map(str, places))}: give each class a name of its own."
        )


def check_columns(schema: pl.Schema, where: str) -> None:
    """Check that a table has paths and splits, and labels of the right kind if any.

    Args:
        schema: of the table of a Hafnia dataset.
        where: the file it is from.

    Raises:
        ValueError: a column is missing, or not of its kind.
    """
    import polars as pl

    remedies = {"file_path": "with the path of each image", "split": f"with {', '.join(SPLITS)}"}
    for column, remedy in remedies.items():
        if column not in schema:
            raise ValueError(
                f"{where}, row 1 and all others have no column {column!r}, only {', '.join(schema)}: add it, "
                f"{remedy}."
            )
        if schema[column] not in (pl.String, pl.Categorical, pl.Enum, pl.Null):
            raise ValueError(
                f"{where}, row 1: column {column!r} is {schema[column]}, not text: write it {remedy}."
            )
    fields = label_fields(schema) if has_labels(schema) else {}
    if has_labels(schema) and "class_name" not in fields:
        kind = schema["classifications"]
        raise ValueError(
            f"{where}, row 1: column 'classifications' is {kind}, not lists of records with a class_name: {_AGAIN}."
        )
    kinds = {name: schema[name] for name in ("width", "height") if name in schema}
    for name, kind in (kinds | {name: fields[name] for name in _FIELDS if name in fields}).items():
        if not _is_kind(kind, _FIELDS.get(name, "a number")):
            raise ValueError(
                f"{where}, row 1: {name} is {kind}, but must be {_FIELDS.get(name, 'a number')}: {_AGAIN}."
            )


def _is_kind(kind: pl.DataType, expected: str) -> bool:
    """Return whether a column's type can be read as a number, text or true or false."""
    import polars as pl

    texts = (pl.String, pl.Categorical, pl.Enum)
    if expected == "a number":
        return not kind.is_nested()
    return kind == pl.Null or (kind in texts if expected == "text" else kind == pl.Boolean)


def has_labels(schema: pl.Schema) -> bool:
    """Return True if a table has a column of labels that is not empty."""
    import polars as pl

    empty = (pl.Null, pl.List(pl.Null))
    return "classifications" in schema and schema["classifications"] not in empty


def label_fields(schema: pl.Schema) -> dict[str, Any]:
    """Return the types of the fields of the records in the lists of labels; none where they are no such lists."""
    import polars as pl

    kind = schema["classifications"]
    inner = kind.inner if isinstance(kind, pl.List) else None
    return (
        {field.name: field.dtype for field in inner.fields} if isinstance(inner, pl.Struct) else {}
    )


def check_splits(count: int, known: int, strays: Sequence[str], where: str) -> None:
    """Check that some rows are of a known split.

    Args:
        count: rows of the table.
        known: rows of them with a path and a known split.
        strays: the other splits.
        where: the file they are from.

    Raises:
        ValueError: none is; says which splits there are instead.
    """
    if not count:
        raise ValueError(f"{where} has no rows: {_AGAIN}.")
    if not known and strays:
        raise ValueError(
            f"{where}: no row is of the split {', '.join(SPLITS[:2])} or {SPLITS[2]}, only of "
            f"{list_names(strays)}: write these names there."
        )


def check_rows(rows: pl.DataFrame, where: str, root: Path) -> None:
    """Check paths and splits of the labeled rows.

    Args:
        rows: columns row (1-based), file_path and split.
        where: the file they are from.
        root: folder that paths are relative to.

    Raises:
        ValueError: one has no path or no split, or the path is of Windows.
    """
    _refuse(rows, rows["file_path"].is_null(), where, "no path", "write one, or delete the row")
    _refuse(
        rows,
        rows["split"].is_null(),
        where,
        "no split",
        f"write {', '.join(SPLITS[:2])} or {SPLITS[2]} there",
    )

    windows = rows.filter(rows["file_path"].str.contains("\\", literal=True))
    missing = next(
        (
            row
            for row in windows.iter_rows(named=True)
            if not os.path.exists(root / row["file_path"])
        ),
        None,
    )
    if missing is not None:
        path = missing["file_path"]
        slashed = path.replace("\\", "/")
        raise ValueError(
            f"{where}, row {missing['row']} has the Windows path {path!r}, as {len(windows)} rows have: write it with "
            f"/, as {slashed!r}."
        )


def _refuse(rows: pl.DataFrame, wrong: pl.Series, where: str, what: str, remedy: str) -> None:
    """Raise ValueError if any row is wrong; names the first."""
    if not wrong.any():
        return

    first = rows.filter(wrong).row(0, named=True)
    shown = f" ({first['file_path']})" if first["file_path"] else ""
    count = f", as {wrong.sum()} of {len(rows)} rows have" if wrong.sum() > 1 else ""
    raise ValueError(f"{where}, row {first['row']}{shown} has {what}{count}: {remedy}.")


def check_single_labels(rows: pl.DataFrame, where: str, task: str) -> None:
    """Check that no image has several labels of the task.

    Args:
        rows: columns row (1-based), file_path and names, the distinct labels of
            rows that have several.
        where: the file they are from.
        task: name of the task.

    Raises:
        ValueError: counts them and names the first.
    """
    several = rows.filter(rows["names"].list.len() > 1)
    if len(several):
        first = several.row(0, named=True)
        raise ValueError(
            f"{where}, row {first['row']} ({first['file_path']}) has {len(first['names'])} labels of task {task!r}: "
            f"{', '.join(map(str, first['names']))}; {len(several)} of {len(rows)} rows have several. A classifier "
            "learns one label an image: keep one in each row."
        )


def match_labels(labels: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Return which class a label means that differs from its name only in blanks or Unicode form.

    Args:
        labels: distinct labels as written.
        names: of the classes.
    """
    known = set(names)
    by_clean: dict[str, list[str]] = {}
    for name in names:
        by_clean.setdefault(clean_label(name), []).append(name)

    means = {label: by_clean.get(clean_label(label), []) for label in labels if label not in known}

    return {label: classes[0] for label, classes in means.items() if len(classes) == 1}


def find_splits(written: Sequence[str]) -> Mapping[str, str]:
    """Return the split of each name that is another form of one: "Val" -> "validation"."""
    return {name: find_split(name) for name in written if find_split(name)}


def differing_sizes(paths: Sequence[str], sizes: Int32) -> list[tuple[int, tuple[int, int]]]:
    """Compare the table's sizes with the heads of a sample of the files.

    Args:
        paths: n images.
        sizes: int32 [n, 2], width and height as the table says; 0 where it does
            not.

    Returns:
        (number, (width, height) of the file) of those that differ, other than by
        a turn of 90 degrees.
    """
    differing = []
    for number in np.unique(np.linspace(0, len(paths) - 1, _SAMPLED, dtype=np.int64)).tolist():
        size = _size_of(paths[number])
        stated = sizes[number].tolist()
        if min(stated) > 0 and min(size) > 0 and sorted(stated) != sorted(size):
            differing.append((number, size))

    return differing


def _size_of(path: str) -> tuple[int, int]:
    """Return width and height of an image by its head; zeros where it cannot be read, which decoding reports."""
    from PIL import Image

    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return 0, 0
