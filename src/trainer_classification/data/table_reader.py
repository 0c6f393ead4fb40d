"""Read a table of any usual kind to rows that still know their place in the file."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer_classification.data.image_suffixes import PILLOW_SUFFIXES, suffix_of
from trainer_classification.files import parse_json

_SEE_LINES = "by a few lines of Python (docs/training.md, Labels in other forms)"
_DELIMITERS = ",;\t|"
_SEPARATOR = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class RawTable:
    """A table as it is written.

    Attributes:
        path: of the file.
        columns: their names; those of a CSV file without a header are empty.
        rows: a list of cells each, as long as `columns`; None where there is
            none.
        places: where each row lies, 1-based: lines of a text file, else rows.
        unit: "line" or "row".
    """

    path: Path
    columns: list[str]
    rows: list[list[Any]]
    places: list[int]
    unit: str

    def where(self, row: int) -> str:
        """Return "photos.csv, line 7"."""
        return f"{self.path}, {self.unit} {self.places[row]}"


def read_table(path: Path, has_header: Callable[[list[str]], bool]) -> RawTable:
    """Read a CSV, TSV, parquet or JSON-lines file, or a JSON list of objects.

    Args:
        path: of the file; its suffix says what it is.
        has_header: tells whether the first row of a CSV file names the columns.

    Raises:
        ValueError: it cannot be read, or is of no such kind; names the file, the
            line and the remedy.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(
            f"{path} is no table that can be read: give a {', '.join(_READERS)} file, or a folder."
        )
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")

    table = reader(path) if reader is not _read_csv else _read_csv(path, has_header)
    if not table.rows:
        raise ValueError(f"{path} has no rows: list one image a row, with its path and label.")

    return table


def is_table(path: str | Path) -> bool:
    """Return True for names of tables, by their suffix."""
    return Path(path).suffix.lower() in _READERS


def _read_text(path: Path) -> str:
    """Return a text file; UTF-8 or, by its byte-order mark, UTF-16."""
    data = path.read_bytes()
    encoding = "utf-16" if data.startswith(_UTF16) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line} is not UTF-8 (byte 0x{data[error.start]:02x}): save the file as UTF-8."
        ) from None


def _read_csv(path: Path, has_header: Callable[[list[str]], bool]) -> RawTable:
    lines = _csv_lines(path, _read_text(path))
    head, first = next(lines, (0, []))
    named = has_header(first)
    columns = [name.strip() for name in first] if named else [""] * len(first)
    rows = [] if named else [first]
    places = [] if named else [head]
    for place, cells in lines:
        if len(cells) != len(columns):
            raise ValueError(
                f"{path}, line {place} has {len(cells)} cells, but line {head} has {len(columns)}: complete it, or put "
                "quotes around a cell that holds the delimiter."
            )
        rows.append(cells)
        places.append(place)

    return RawTable(path, columns, rows, places, "line")


def _csv_lines(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of each row that is not blank; a first line of Excel's, sep=;, only says the delimiter."""
    first = text.partition("\n")[0]
    said = _SEPARATOR.fullmatch(first.rstrip())
    if said:
        delimiter = said[1]
    elif path.suffix.lower() in (".tsv", ".tab"):
        delimiter = "\t"
    else:
        delimiter = max(_DELIMITERS, key=first.count)
    lines = io.StringIO(text, newline="")
    above = 1 if said else 0
    if said:
        lines.readline()
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    line = above + 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield line, cells
            line = above + reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {line} cannot be read ({error}): correct its quotes."
        ) from None


def _read_json_lines(path: Path) -> RawTable:
    text = _read_text(path)
    if text.lstrip().startswith("["):
        return _from_objects(path, list(enumerate(_load(path, text), 1)), "row")
    _check_no_other_kind(path, text)

    objects = []
    for line, content in enumerate(text.split("\n"), 1):
        if content.strip():
            objects.append((line, _load(path, content, line)))

    return _from_objects(path, objects, "line")


def _check_no_other_kind(path: Path, text: str) -> None:
    """Check that a text that is one JSON object is no list of labels of another kind.

    Raises:
        ValueError: it is; says which, and how to make a table of it.
    """
    try:
        content = parse_json(text)
    except ValueError:  # several lines of objects, or damaged
        return
    if not isinstance(content, dict):
        return

    if isinstance(content.get("images"), list) and isinstance(content.get("annotations"), list):
        raise ValueError(
            f"{path} is a COCO file (images, annotations), which is not read: write a table of file_name and label, "
            f"{_SEE_LINES}."
        )
    values = list(content.values())
    if any(suffix_of(name) in PILLOW_SUFFIXES for name in content):
        raise ValueError(
            f'{path} is one object of paths and labels, {{"a.jpg": "cat"}}, which is not read: write a row for each '
            f"image, {_SEE_LINES}."
        )
    if values and all(isinstance(value, list) for value in values):
        raise ValueError(
            f'{path} is one object of lists, as {{"cat": ["a.jpg"]}}, which is not read: write a row for each image, '
            f"{_SEE_LINES}."
        )


def _load(path: Path, text: str, line: int = 0) -> Any:
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        place = line or error.lineno
        raise ValueError(
            f"{path}, line {place} is not JSON ({error.msg}, column {error.colno}): correct or delete it."
        ) from None
    except ValueError as error:
        where = f"{path}, line {line}," if line else str(path)
        raise ValueError(f"{where} cannot be read as JSON ({error}): correct it.") from None


def _from_objects(path: Path, objects: list[tuple[int, Any]], unit: str) -> RawTable:
    for place, value in objects:
        if not isinstance(value, dict):
            raise ValueError(
                f'{path}, {unit} {place} is no object such as {{"path": "a.jpg", "label": "cat"}}.'
            )

    columns = list(dict.fromkeys(name for _, value in objects for name in value))
    rows = [[value.get(name) for name in columns] for _, value in objects]
    return RawTable(path, columns, rows, [place for place, _ in objects], unit)


def _read_parquet(path: Path) -> RawTable:
    import polars as pl

    try:
        table = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ValueError(
            f"{path} is no whole parquet file ({' '.join(str(error).split())[:120]}): copy or write it again."
        ) from error

    return RawTable(
        path, table.columns, list(map(list, table.rows())), list(range(1, len(table) + 1)), "row"
    )


_READERS: dict[str, Callable[..., RawTable]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".tab": _read_csv,
    ".parquet": _read_parquet,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json_lines,
}
