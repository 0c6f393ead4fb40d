"""Read a table of image files: a path, a label and, where there is one, a split in each row."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trainer_classification.data.file_names import FileNames
from trainer_classification.data.image_suffixes import PILLOW_SUFFIXES, PLUGINS, suffix_of
from trainer_classification.data.labeled_files import (
    PREDICT_INSTEAD,
    LabeledFiles,
    check_repeated,
    clean_label,
    note_cleaned,
    note_labels,
    note_unlabeled,
    number_unlabeled,
    sort_classes,
)
from trainer_classification.data.split_names import NUMBER_OF, find_split
from trainer_classification.data.table_reader import RawTable, read_table
from trainer_classification.names import list_names, printable

# Usual names of columns, the likelier first; compared in lower case, without
# blanks, hyphens and underscores.
_PATHS = (
    "path filepath imagepath imgpath relativepath file filename imagefile imagefilename imagename imgname image img "
    "photo imageid id name"
)
_LABELS = (
    "label classname class labelname category categoryname target targetname species y labels classes classid labelid "
    "classidx"
)
_SPLITS = "split subset partition set splitname phase usage"
_USUAL = {"path": _PATHS.split(), "label": _LABELS.split(), "split": _SPLITS.split()}
_KINDS = ("path", "label", "split")
_BACKSLASH = "\\"
_SLASHES = "/\\"
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_DRIVE = re.compile(r"[a-z]:[\\/]", re.IGNORECASE)
_UNUSED = 8  # columns that are named
_LOOKED_FOR = 100  # files of which one at least has to be there


@dataclass(frozen=True)
class ListingOptions:
    """How to read a table.

    Attributes:
        path_column, label_column, split_column: names; empty: guessed from usual
            ones.
        unknown_splits: splits of another name than train, validation and test:
            "fail", "skip" their rows, or take them as "train".
    """

    path_column: str = ""
    label_column: str = ""
    split_column: str = ""
    unknown_splits: Literal["fail", "skip", "train"] = "fail"


@dataclass(frozen=True)
class _Columns:
    """Numbers of the columns; -1: there is none."""

    path: int
    label: int
    split: int


@dataclass(frozen=True, slots=True)
class _Row:
    """A row: its number from 0, its path, its label as written ("": none), and its split, "" for one to leave out."""

    number: int
    path: str
    label: str
    split: str


def read_listing(path: Path, options: ListingOptions | None = None) -> LabeledFiles:
    """Read a CSV, TSV, parquet or JSON-lines file of paths, labels and perhaps splits.

    Relative paths are relative to the table's folder, or to one folder in it, with
    or without a suffix. Labels lose blanks at their
    ends and are taken in Unicode's composed form. Rows without a label are
    splits of their own ("test_unlabeled"). Rows that are there twice are left out
    and counted. Without a split column, or with an empty one, all images are of
    train.

    Args:
        path: of the table.
        options: which columns to read.

    Raises:
        ValueError: says file, line or row, and what to do.
    """
    options = options or ListingOptions()
    table = read_table(path, _has_header)
    columns = _find_columns(table, options)
    notes = [_note_columns(table, columns)]

    all_rows = _read_rows(table, columns, options)
    in_splits = [row for row in all_rows if row.split]
    if len(in_splits) < len(all_rows):
        notes.append(
            f"{len(all_rows) - len(in_splits)} rows of other splits are left out (--unknown-folders skip)."
        )

    rows = _drop_repeated(table, in_splits)
    if len(rows) < len(in_splits):
        notes.append(f"{len(in_splits) - len(rows)} rows name an image again and are left out.")

    root = Path(os.path.abspath(path)).parent
    _check_rows(table, rows)
    rows = _place_files(table, root, rows, notes)

    return _label(table, root, rows, notes)


def _has_header(cells: Sequence[str]) -> bool:
    """Return True unless a cell of the first row is the path of an image."""
    return not any(
        suffix_of(cell.strip()) in PILLOW_SUFFIXES or suffix_of(cell.strip()) in PLUGINS
        for cell in cells
    )


def _find_columns(table: RawTable, options: ListingOptions) -> _Columns:
    """Find the columns by the names in `options`, by usual names, or without a header by their order.

    Raises:
        ValueError: there is no column of paths or of labels; lists those there
            are.
    """
    given = {
        "path": options.path_column,
        "label": options.label_column,
        "split": options.split_column,
    }
    if not any(table.columns):
        return _columns_in_order(table, given)

    found = {kind: _find_column(table, kind, name) for kind, name in given.items()}
    if found["label"] < 0 or options.label_column:
        _check_no_one_hot(table, found)
    for kind in ("path", "label"):
        if found[kind] < 0:
            raise ValueError(
                f"{table.path} has no column that is known to hold the {kind}s; it has {list_names(table.columns)}: "
                f"name it with --{kind}-column."
            )

    return _Columns(**found)


def _find_column(table: RawTable, kind: str, name: str) -> int:
    """Return the number of the column of that name, or of a usual one; -1: there is none."""
    if name:
        if name not in table.columns:
            raise ValueError(
                f"{table.path} has no column {name!r} (--{kind}-column); it has {list_names(table.columns)}."
            )
        _check_single(table, kind, [column for column in table.columns if column == name])
        return table.columns.index(name)

    plain = [re.sub(r"[\s_-]", "", column.lower()) for column in table.columns]
    usual = next((usual for usual in _USUAL[kind] if usual in plain), None)
    if usual is None:
        return -1
    alike = zip(table.columns, plain, strict=True)
    _check_single(table, kind, [column for column, its_plain in alike if its_plain == usual])
    return plain.index(usual)


def _check_single(table: RawTable, kind: str, names: Sequence[str]) -> None:
    """Check that no other column may be meant.

    Raises:
        ValueError: there is one of the same name.
    """
    if len(names) > 1:
        remedy = (
            "rename one of them"
            if len(set(names)) < len(names)
            else f"name one with --{kind}-column"
        )
        raise ValueError(
            f"{table.path} has {len(names)} columns for the {kind}s, {list_names(names)}: {remedy}."
        )


def _check_no_one_hot(table: RawTable, found: dict[str, int]) -> None:
    """Check that the labels are not spread over a column for each class.

    Args:
        table: the table.
        found: kind -> number of its column, -1: none; a label's that has no usual
            name.

    Raises:
        ValueError: they are; says how to make one column of them.
    """
    given = found["label"]
    if given >= 0 and not _is_flag(table.rows[0][given]):
        return
    others = set(range(len(table.columns))) - {found["path"], found["split"]}
    flags = [
        number for number in sorted(others) if all(_is_flag(row[number]) for row in table.rows)
    ]
    names = list_names((table.columns[number] for number in flags), 4)
    is_one_hot = all(sum(_is_set(row[number]) for number in flags) == 1 for row in table.rows)
    is_all = len(flags) == len(others)  # else another column may be that of the labels
    if is_one_hot and (is_all or len(flags) > 2) and len(flags) > 1:
        raise ValueError(
            f"{table.path} has a column for each class, with a 1 in that of the image ({names}): make one column of "
            f"them, as by idxmax(axis=1) of pandas (docs/training.md, Labels in other forms)."
        )
    if given < 0 and is_all and len(flags) > 1:
        raise ValueError(
            f"{table.path} has a column for each class ({names}), and rows with a 1 in none or several of them, but an "
            f"image has one class here: train one of them (--label-column {table.columns[flags[0]]}), or make one "
            f"column of them (docs/training.md, Labels in other forms)."
        )


def _is_flag(cell: Any) -> bool:
    return str(cell).strip().lower() in ("0", "1", "0.0", "1.0", "true", "false")


def _is_set(cell: Any) -> bool:
    return str(cell).strip().lower() in ("1", "1.0", "true")


def _columns_in_order(table: RawTable, given: dict[str, str]) -> _Columns:
    """Return path, label and split in this order, for a table without a header.

    Raises:
        ValueError: it has one column or more than three, or columns are asked for
            by name.
    """
    asked = next((f"--{kind}-column {name}" for kind, name in given.items() if name), "")
    count = len(table.columns)
    if asked or count not in (2, 3):
        reason = f"and {asked} asks for one" if asked else f"and {count} columns"
        raise ValueError(
            f"{table.path} has no line of column names {reason}: begin it with a line such as path,label,split."
        )

    return _Columns(0, 1, 2 if count == 3 else -1)


def _note_columns(table: RawTable, columns: _Columns) -> str:
    """Say which columns are read, and which are not."""
    names = {kind: number for kind in _KINDS if (number := getattr(columns, kind)) >= 0}
    shown = {
        kind: table.columns[number] or f"number {number + 1}" for kind, number in names.items()
    }
    listed = ", ".join(f"{kind}s from column {name}" for kind, name in shown.items())
    others = [
        column or f"number {number + 1}"
        for number, column in enumerate(table.columns)
        if number not in names.values()
    ]
    unused = f"; not used: {list_names(others, _UNUSED)}" if others else ""
    return f"{table.path.name}: {listed}{unused}."


def _read_rows(table: RawTable, columns: _Columns, options: ListingOptions) -> list[_Row]:
    """Read all rows.

    Raises:
        ValueError: one is wrong, or none has a label.
    """
    has_splits = columns.split >= 0 and any(
        not _is_blank(cells[columns.split]) for cells in table.rows
    )
    rows = []
    for number, cells in enumerate(table.rows):
        is_labeled = not _is_blank(cells[columns.label])
        label = _read_cell(table, number, "label", cells[columns.label]) if is_labeled else ""
        path = _read_path(table, number, cells[columns.path])
        split = _read_split(table, number, cells[columns.split], options) if has_splits else "train"
        rows.append(_Row(number, path, label, split))

    if not any(row.label for row in rows):
        raise ValueError(
            f"{table.path} has no label in any of its {len(table.rows)} rows: name their column. "
            f"{PREDICT_INSTEAD}"
        )

    return rows


def _is_blank(cell: Any) -> bool:
    return (
        cell is None or cell != cell or (isinstance(cell, str) and not cell.strip())
    )  # NaN is not itself


def _read_cell(table: RawTable, number: int, kind: str, cell: Any) -> str:
    """Return a cell as text; a whole number that is stored as 3.0 is "3".

    Raises:
        ValueError: it holds a list, a record or bytes.
    """
    if isinstance(cell, str):
        return cell
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, bool | int | float):
        return str(cell)

    raise ValueError(
        f"{table.where(number)} has a {type(cell).__name__} as its {kind}: give one text or number a row."
    )


def _read_path(table: RawTable, number: int, cell: Any) -> str:
    """Return the path of a row.

    Raises:
        ValueError: there is none, or it is an address or a path of Windows.
    """
    if _is_blank(cell):
        raise ValueError(f"{table.where(number)} has no path: write one, or delete the row.")

    path = _read_cell(table, number, "path", cell).strip()
    if _URL.match(path):
        raise ValueError(
            f"{table.where(number)} has the address {path!r}: download the image and give its path."
        )
    if "\0" in path:
        raise ValueError(f"{table.where(number)} has a path with a zero byte: correct it.")
    if _DRIVE.match(path) or ("\\" in path and not os.path.exists(table.path.parent / path)):
        raise ValueError(
            f"{table.where(number)} has the Windows path {path!r}: write it with / and relative to the table's "
            f"folder, as {path.split(':')[-1].strip(_SLASHES).replace(_BACKSLASH, '/')!r}."
        )

    return path


def _read_split(table: RawTable, number: int, cell: Any, options: ListingOptions) -> str:
    """Return the split of a row, "" for one to leave out.

    Raises:
        ValueError: there is none though other rows have one, or it is not known
            and `options` do not say what it is.
    """
    if _is_blank(cell):
        raise ValueError(
            f"{table.where(number)} has no split, though other rows have: write train, validation or test, or empty "
            "the whole column to have splits cut."
        )

    written = _read_cell(table, number, "split", cell)
    split = find_split(written)
    if not split and options.unknown_splits == "fail":
        raise ValueError(
            f"{table.where(number)} has the split {written!r}, but known are train, validation and test: correct it, "
            "or take such rows for training (--unknown-folders train) or leave them out (--unknown-folders skip)."
        )

    return split or ("train" if options.unknown_splits == "train" else "")


def _drop_repeated(table: RawTable, rows: Sequence[_Row]) -> list[_Row]:
    """Return the rows without those that say the same of the same path again, those without a label last.

    Raises:
        ValueError: two rows give one path different labels or splits.
    """
    first: dict[str, _Row] = {}
    for row in sorted(rows, key=lambda row: not row.label):
        before = first.setdefault(os.path.normpath(row.path), row)
        if before.label and not row.label:
            continue
        for kind, now, then in (
            ("label", clean_label(row.label), clean_label(before.label)),
            ("split", row.split, before.split),
        ):
            if now != then:
                raise ValueError(
                    f"{table.where(row.number)} gives {row.path} the {kind} {now!r}, but {table.unit} "
                    f"{table.places[before.number]} the {kind} {then!r}: keep one of them."
                )

    return list(first.values())


def _check_rows(table: RawTable, rows: Sequence[_Row]) -> None:
    """Check that there are rows to train on.

    Raises:
        ValueError: says what is there instead.
    """
    counts = Counter(row.split for row in rows if row.label)
    if not counts["train"]:
        there = list_names(counts) if counts else "other splits"
        raise ValueError(f"{table.path} has no rows to train on, only {there}.")


def _place_files(table: RawTable, root: Path, rows: list[_Row], notes: list[str]) -> list[_Row]:
    """Return the rows with paths relative to the table's folder, and note what was added to them.

    Many tables name files without the folder they are in, or without a suffix
    ("id"). Where none of the first files is beside the table, one folder beside it
    is taken that has more of them than any other.

    Raises:
        ValueError: none of the first files is found, or two folders have as many.
    """
    first = [row.path for row in rows[:_LOOKED_FOR]]
    if any(os.path.lexists(root / path) for path in first):
        return rows

    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    counts = {
        (folder, suffix): sum(os.path.lexists(root / folder / f"{path}{suffix}") for path in first)
        for folder in ["", *folders]
        for suffix in _find_suffixes(root / folder, first[0])
    }
    most = max(counts.values(), default=0)
    if not most:
        raise ValueError(
            f"{table.where(rows[0].number)} names {first[0]}, but there is no {root / first[0]}, nor any of the "
            f"first {len(first)} files: paths are relative to the table's folder or to one folder in it. Move the "
            "table, or correct them."
        )

    places = [place for place, count in counts.items() if count == most]
    if len(places) > 1:
        found = list_names(os.path.join(folder, f"{first[0]}{suffix}") for folder, suffix in places)
        raise ValueError(
            f"{table.where(rows[0].number)} names {first[0]}, which may be any of {found}: write paths relative to "
            "the table's folder."
        )

    folder, suffix = places[0]
    where = f"found in {printable(folder)}/" if folder else "found"
    notes.append(
        f"The files that {table.path.name} names are {where}{f' with {suffix} behind the name' if suffix else ''}."
    )
    return [replace(row, path=os.path.join(folder, f"{row.path}{suffix}")) for row in rows]


def _find_suffixes(folder: Path, name: str) -> list[str]:
    """Return "", or for a name without an image's suffix those of the image files of that name."""
    if suffix_of(name) in PILLOW_SUFFIXES:
        return [""]

    try:
        beside = os.listdir((folder / name).parent)
    except OSError:
        return []

    start = os.path.basename(name)
    return sorted(
        file[len(start) :]
        for file in beside
        if file.startswith(start) and file[len(start) :].lower() in {"", *PILLOW_SUFFIXES}
    )


def _label(table: RawTable, root: Path, rows: Sequence[_Row], notes: list[str]) -> LabeledFiles:
    """Return the files of the rows with labels and splits; -1 is the label of those that have none."""
    written = dict.fromkeys(row.label for row in rows if row.label)
    taken = {label: clean_label(label) for label in written}
    class_names = sort_classes(taken.values())
    index = {name: label for label, name in enumerate(class_names)}
    labels = np.array([index[taken[row.label]] if row.label else -1 for row in rows], np.int64)
    is_labeled = labels >= 0
    check_repeated(str(table.path), class_names, labels[is_labeled])
    given_splits = np.array([NUMBER_OF[row.split] for row in rows], np.int8)
    splits = number_unlabeled(given_splits, is_labeled)

    notes = [*notes, *note_cleaned(taken.items())]
    if (given_splits == NUMBER_OF["train"]).all():
        notes.append(
            "The table has no splits: test and validation are cut from the images, by their content."
        )

    return LabeledFiles(
        name=table.path.stem,
        root=root,
        class_names=class_names,
        files=FileNames.of(row.path for row in rows),
        split_numbers=splits,
        labels=labels,
        unlabeled=int((~is_labeled).sum()),
        notes=[
            *notes,
            *note_labels(class_names, labels[is_labeled], given_splits[is_labeled]),
            *note_unlabeled(splits),
        ],
    )
