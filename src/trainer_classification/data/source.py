"""Finding a Hafnia dataset and reading its table: the only reader of `hafnia.dataset`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainer_classification.arrays import Bool, Int8, Int32, Text
from trainer_classification.config import PrepareConfig, TrainConfig
from trainer_classification.data import hafnia_table
from trainer_classification.data.file_names import FileNames
from trainer_classification.data.file_places import look_at_files, note_outside
from trainer_classification.data.folder import FolderOptions, scan_folder
from trainer_classification.data.hafnia_table import AnnotationTable
from trainer_classification.data.image_suffixes import register_plugins
from trainer_classification.data.labeled_files import (
    PREDICT_INSTEAD,
    TASK,
    LabeledFiles,
    note_cleaned,
    note_labels,
    note_unlabeled,
    number_unlabeled,
)
from trainer_classification.data.listing import ListingOptions, read_listing
from trainer_classification.data.split_names import ALL_SPLITS, NUMBER_OF, SPLITS
from trainer_classification.data.table_reader import is_table
from trainer_classification.environment import in_cloud
from trainer_classification.names import list_names

if TYPE_CHECKING:
    import polars as pl

CLOUD_FOLDER = "/opt/ml/input/data/training"  # the SDK's default where MDI_DATASET_DIR is not set
PUBLIC = (
    "mnist",
    "cifar10",
    "cifar100",
    "caltech-101",
    "caltech-256",
)  # that the SDK converts without an account
VERSION = "1.0.0"
_ROWS_AT_ONCE = 1 << 16
_SAMPLES = Path(__file__).parents[3] / "samples"


@dataclass(frozen=True)
class ReadOptions:
    """How to read a dataset.

    Attributes:
        folder: of images.
        listing: a table of their paths.
        allow_outside: whether files outside of the dataset's folder are read, as
            for `note_outside`.
    """

    folder: FolderOptions = field(default_factory=FolderOptions)
    listing: ListingOptions = field(default_factory=ListingOptions)
    allow_outside: str = "auto"


def read_options(config: PrepareConfig | TrainConfig) -> ReadOptions:
    """Return what a command's options say about reading folders and tables."""
    return ReadOptions(
        FolderOptions(config.nested, config.unknown_folders),
        ListingOptions(
            config.path_column, config.label_column, config.split_column, config.unknown_folders
        ),
        config.allow_outside,
    )


@dataclass(frozen=True)
class Source:
    """The images of one classification task, in the order of the dataset's table.

    Attributes:
        name, version, task: of the dataset.
        class_names: index = label.
        root: folder that `files` are relative to.
        files: path of each image.
        split_numbers: int8 [n], of `ALL_SPLITS`; an image without a label is of
            one of UNLABELED.
        labels: int32 [n]; -1: none.
        sizes: int32 [n, 2], width and height in px as the table says; 0 where it
            does not.
        bytes: int64 [n], size of each file; 0 where there is none.
        times: int64 [n, 2], of `FilePlaces`.
        outside, first_outside: number of files that lie outside of `root`, and
            the first of them.
        unlabelled: rows that have no label of this task.
        notes: what the user should know, a sentence each.
        left_out: suffix -> files of a folder that are no image that can be
            decoded; "" for no suffix.
    """

    name: str
    version: str
    task: str
    class_names: list[str]
    root: Path
    files: FileNames
    split_numbers: Int8
    labels: Int32
    sizes: Int32
    bytes: npt.NDArray[np.int64]
    times: npt.NDArray[np.int64]
    outside: int = 0
    first_outside: str = ""
    unlabelled: int = 0
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def paths(self) -> FileNames:
        """Path of each image from here."""
        return self.files.below(self.root)

    @property
    def splits(self) -> Text:
        """Name of each image's split: str [n], made anew."""
        return np.array(ALL_SPLITS)[self.split_numbers]


def find_dataset(dataset: str, task: str = "", options: ReadOptions | None = None) -> Source:
    """Find a dataset by name, folder or table and read its labels.

    In this order: the dataset mounted by Training-aaS; a folder or a table of
    paths; `.data/datasets/<name>`; the platform, where a profile or key is
    configured; the SDK's converter of public datasets; the bundled sample of that
    name.

    Args:
        dataset: name, folder or table of paths; empty: mnist, unless one is
            mounted.
        task: which classification task; empty: the only one.
        options: for a folder of images or a table of paths.

    Raises:
        ValueError: not found (says what was tried), or its table is wrong (says
            where).
    """
    source = _find_source(dataset, task, options)
    allowed = options.allow_outside if options else ReadOptions.allow_outside
    source.notes.extend(
        note_outside(source.root, source.outside, source.first_outside, len(source.files), allowed)
    )
    return source


def _find_source(dataset: str, task: str, options: ReadOptions | None) -> Source:
    if in_cloud():
        return read_folder(Path(os.environ.get("MDI_DATASET_DIR", CLOUD_FOLDER)), task, options)
    if dataset and (Path(dataset).is_file() or is_table(dataset)) and not Path(dataset).is_dir():
        return _read_file(Path(dataset), task, options)
    if dataset and (Path(dataset).is_dir() or "/" in dataset):
        return read_folder(Path(dataset), task, options)
    name = dataset or "mnist"
    tried = []
    ways: list[tuple[str, Callable[[], Source]]] = [
        (f".data/datasets/{name}", lambda: _from_folder(Path(".data/datasets") / name, task)),
        ("the Hafnia platform", lambda: _from_platform(name, task)),
        ("the SDK's public datasets", lambda: _from_public(name, task)),
        (f"the bundled sample samples/{name}", lambda: _from_folder(_SAMPLES / name, task)),
    ]
    for way, read in ways:
        try:
            return read()
        except _NotThereError as error:
            tried.append(f"{way}: {error}")
    raise NoDatasetError(
        f"There is no dataset {name!r}. Tried {'; '.join(tried)}. Give the folder of a dataset, or run "
        f"`hafnia configure` and then `hafnia dataset download {name}`."
    )


class NoDatasetError(ValueError):
    """Nothing has a dataset of that name."""


class _NotThereError(Exception):
    """This way does not lead to the dataset; the next one may."""


def read_folder(folder: Path, task: str = "", options: ReadOptions | None = None) -> Source:
    """Read a Hafnia dataset (dataset_info.json and annotations), or images as <split>/<class>/** or <class>/**.

    Raises:
        ValueError: it is neither, or its table is wrong.
    """
    if (folder / hafnia_table.INFO).is_file():
        info = hafnia_table.read_info(folder / hafnia_table.INFO)
        return _from_table(info, hafnia_table.open_annotations(folder), folder.absolute(), task)
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    table = next((name for name in hafnia_table.TABLES if (folder / name).is_file()), "")
    if table:
        raise ValueError(
            f"{folder} has {table} but no {hafnia_table.INFO}: download the dataset again."
        )

    return _from_files(scan_folder(folder, options.folder if options else None), task)


def _read_file(path: Path, task: str, options: ReadOptions | None) -> Source:
    """Read a table of paths and labels; one of a Hafnia dataset's own files stands for its folder."""
    if (
        path.name in (hafnia_table.INFO, *hafnia_table.TABLES)
        and (path.parent / hafnia_table.INFO).is_file()
    ):
        return read_folder(path.parent, task, options)

    return _from_files(read_listing(path, options.listing if options else None), task)


def _from_files(found: LabeledFiles, task: str) -> Source:
    """Return files and labels as a dataset of one task; sizes are found when preparing."""
    if task not in ("", TASK):
        raise ValueError(f"{found.root} has no classification task {task!r}; it has: {TASK}.")

    register_plugins(found.files)

    return _make_source(found, TASK, "0.0.0", np.zeros((len(found.files), 2), np.int32))


def _make_source(found: LabeledFiles, task: str, version: str, sizes: Int32) -> Source:
    """Look at the files of a dataset, and return all that is known of it.

    Args:
        found: its files and labels.
        task: of the labels.
        version: of the dataset.
        sizes: of `Source`.
    """
    places = look_at_files(found.root, found.files)

    return Source(
        name=found.name,
        version=version,
        task=task,
        class_names=found.class_names,
        root=found.root,
        files=found.files,
        split_numbers=found.split_numbers,
        labels=found.labels.astype(np.int32, copy=False),
        sizes=sizes,
        bytes=places.bytes,
        times=places.times,
        outside=places.outside,
        first_outside=places.first_outside,
        unlabelled=found.unlabeled,
        notes=found.notes,
        left_out=found.left_out,
    )


def _from_sdk(dataset: Any, root: Path, task: str) -> Source:
    table = AnnotationTable(dataset.samples.lazy(), root)
    return _from_table(dataset.info.model_dump(mode="json"), table, root, task)


def _from_platform(name: str, task: str) -> Source:
    keys = os.environ.get("HAFNIA_API_KEY") and os.environ.get("HAFNIA_PLATFORM_URL")
    profile = Path(os.environ.get("MDI_CONFIG_PATH", Path.home() / ".hafnia/config.json"))
    if not keys and not profile.is_file():
        raise _NotThereError("no profile or key is configured (`hafnia configure`)")
    return _through_sdk(lambda sdk: sdk.from_name(name, VERSION), task)


def _from_public(name: str, task: str) -> Source:
    if name not in PUBLIC:
        raise _NotThereError(f"has {', '.join(PUBLIC)} alone")
    return _through_sdk(lambda sdk: sdk.from_name_public_dataset(name), task)


def _through_sdk(load: Callable[[Any], Any], task: str) -> Source:
    from hafnia.dataset.hafnia_dataset import HafniaDataset

    try:
        dataset = load(HafniaDataset)
    except Exception as error:  # the SDK raises whatever its HTTP, S3 and torchvision layers raise
        text = " ".join(str(error).split()) or type(error).__name__
        raise _NotThereError(text[:200]) from error
    return _from_sdk(dataset, Path.cwd(), task)


def _from_folder(folder: Path, task: str) -> Source:
    if not folder.is_dir():
        raise _NotThereError("not there")
    source = read_folder(folder, task)
    if folder.parent == _SAMPLES:
        source.notes.append(
            f"This is the small bundled sample of {source.name}, not the whole dataset."
        )
    return source


def _from_table(info: dict[str, Any], table: AnnotationTable, root: Path, task: str) -> Source:
    chosen = choose_task(info, task)
    found, sizes = _read_table(info, chosen, table, root)
    version = info.get("version") or "0.0.0"

    return _with_true_sizes(_make_source(found, chosen["name"], version, sizes))


def _read_table(
    info: dict[str, Any], chosen: dict[str, Any], table: AnnotationTable, root: Path
) -> tuple[LabeledFiles, Int32]:
    """Read and check the table of a Hafnia dataset.

    Args:
        info: of the dataset.
        chosen: the task, of `choose_task`.
        table: of the dataset.
        root: folder that paths are relative to.

    Returns:
        (files, sizes): the files of known splits, and their widths and heights,
        int32 [n, 2]; 0 where the table has none.

    Raises:
        ValueError: it is wrong; says where.
    """
    import polars as pl

    where = _table_file(root, info["dataset_name"])
    names = [entry["name"] for entry in chosen["classes"]]
    hafnia_table.check_class_names(names, str(root / hafnia_table.INFO))
    hafnia_table.check_columns(table.schema, where)

    rows = _read_labels(table, chosen["name"])
    hafnia_table.check_single_labels(rows, where, chosen["name"])
    meant = hafnia_table.match_labels(
        rows["name"].drop_nulls().unique(maintain_order=True).to_list(), names
    )
    if meant:
        rows = rows.with_columns(pl.col("name").cast(pl.String).replace(meant))
    labels_N = _number(rows["name"], {name: label for label, name in enumerate(names)})
    _check_labels(rows, labels_N, names, where)
    spellings = hafnia_table.find_splits(rows["split"].drop_nulls().unique().to_list())
    numbers = {written: NUMBER_OF[split] for written, split in spellings.items()}
    given_N = _number(rows["split"], numbers).astype(np.int8)
    known_N = (given_N >= 0) & rows["file_path"].is_not_null().to_numpy()
    to_check = rows.select("row", "file_path", "split")
    hafnia_table.check_rows(_filter(to_check, (labels_N >= 0) | known_N), where, root)

    strays = sorted(set(_filter(rows.select("split"), given_N < 0)["split"].drop_nulls().to_list()))
    hafnia_table.check_splits(len(rows), int(known_N.sum()), strays, where)
    notes = (
        [f"Rows of split {', '.join(strays)} are left out: known are {', '.join(SPLITS)}."]
        if strays
        else []
    )
    notes += note_cleaned(meant.items())
    unlabeled = int((labels_N < 0).sum())
    if not known_N.all():
        rows, given_N, labels_N = _filter(rows, known_N), given_N[known_N], labels_N[known_N]
    is_labeled = labels_N >= 0
    empty = [
        names[i]
        for i in np.flatnonzero(np.bincount(labels_N[is_labeled], minlength=len(names)) == 0)
    ]
    if empty:
        notes.append(f"{len(empty)} of {len(names)} classes have no image: {list_names(empty)}.")
    if not is_labeled.any():
        raise ValueError(
            f"The dataset {info['dataset_name']} has no labelled images of task {chosen['name']!r} (column "
            f"'classifications' of its table): add the labels, or download the dataset again. "
            f"{PREDICT_INSTEAD}"
        )
    splits_N = number_unlabeled(given_N, is_labeled)
    sizes = rows.select(pl.col("width", "height").fill_null(0)).to_numpy(order="c")
    rows = rows.select("file_path")  # the others are memory that the names need
    found = LabeledFiles(
        name=info["dataset_name"],
        root=root,
        class_names=names,
        files=FileNames.of(rows["file_path"]),
        split_numbers=splits_N,
        labels=labels_N,
        unlabeled=unlabeled,
        notes=[
            *notes,
            *note_labels(names, labels_N[is_labeled], given_N[is_labeled]),
            *note_unlabeled(splits_N),
        ],
    )
    return found, sizes


def _table_file(root: Path, name: str) -> str:
    """Return the file that holds the table, for messages."""
    there = (str(root / table) for table in hafnia_table.TABLES if (root / table).is_file())
    return next(there, f"The table of {name}")


def _with_true_sizes(source: Source) -> Source:
    """Drop the table's sizes where a sample of the files has others: preparing then finds those of the files."""
    differing = hafnia_table.differing_sizes(source.paths, source.sizes)
    if not differing:
        return source

    row, (width, height) = differing[0]
    stated = "x".join(map(str, source.sizes[row].tolist()))
    source.notes.append(
        f"The table says other sizes than the files have, for {source.files[row]} {stated} instead of "
        f"{width}x{height}: those of the files are used."
    )

    return dataclasses.replace(source, sizes=np.zeros_like(source.sizes))


def choose_task(info: dict[str, Any], task: str) -> dict[str, Any]:
    """The classification task to train on.

    Raises:
        ValueError: there is none, several and none was named, or not that one;
            lists those there are.
    """
    tasks = {
        entry["name"]: entry for entry in info["tasks"] if _primitive(entry) == "Classification"
    }
    others = [
        f"{entry['name']} ({_primitive(entry)})"
        for entry in info["tasks"]
        if entry["name"] not in tasks
    ]
    name = info["dataset_name"]
    if not tasks:
        raise ValueError(
            f"The dataset {name} has no classification task; it has: {', '.join(others) or 'none'}."
        )
    if task and task not in tasks:
        raise ValueError(
            f"The dataset {name} has no classification task {task!r}; it has: {', '.join(tasks)}."
        )
    if not task and len(tasks) > 1:
        raise ValueError(
            f"The dataset {name} has several tasks; choose with --task: {', '.join(tasks)}."
        )
    chosen = tasks[task or next(iter(tasks))]
    if not chosen.get("classes"):
        raise ValueError(
            f"The task {chosen['name']!r} of the dataset {name} has no list of classes."
        )
    return dict(chosen)


def _primitive(task: dict[str, Any]) -> str:
    primitive = task["primitive"]
    return primitive if isinstance(primitive, str) else primitive["name"]


def _number(texts: pl.Series, numbers: dict[str, int]) -> Int32:
    """Return the number of each text; -1 for others."""
    import polars as pl

    found = np.zeros(len(texts), np.int32)
    for start in range(0, len(texts), _ROWS_AT_ONCE):  # each is text for a moment
        some = texts.slice(start, _ROWS_AT_ONCE).cast(pl.String)
        some = some.replace_strict(numbers, default=-1, return_dtype=pl.Int32)
        found[start : start + len(some)] = some.to_numpy()
    return found


def _filter(rows: pl.DataFrame, is_chosen: Bool) -> pl.DataFrame:
    """Return some of the rows, without a copy where that is all of them."""
    import polars as pl

    return rows if is_chosen.all() else rows.filter(pl.Series(is_chosen))


def _read_labels(table: AnnotationTable, task: str) -> pl.DataFrame:
    """Return columns row (1-based), file_path, split, width, height, name, names and idx of all rows.

    `name` is the first label of the task; it is null where there is none. `names`
    are the distinct ones where there are several, else null.
    """
    import polars as pl

    columns = _describe_labels(table.schema, task)
    slices = table.slices(["file_path", "split", "width", "height", "classifications"])
    parts = [part.select(columns) for part in slices]

    return pl.concat(parts).with_row_index("row", 1)


def _describe_labels(schema: pl.Schema, task: str) -> list[pl.Expr]:
    """Return the columns of `_read_labels` but for the rows, as polars' expressions."""
    import polars as pl

    zero = {
        column: pl.lit(0).alias(column) for column in ("width", "height") if column not in schema
    }
    sizes = [
        zero.get(column, pl.col(column).cast(pl.Int64, strict=False)).cast(pl.Int32, strict=False)
        for column in ("width", "height")
    ]
    texts = [pl.col(column).cast(pl.String).replace("", None) for column in ("file_path", "split")]
    texts[1] = texts[1].cast(pl.Categorical)  # a number for each row, in place of 16 bytes
    if not hafnia_table.has_labels(schema):
        kinds = {"name": pl.Categorical(), "names": pl.List(pl.String), "idx": pl.Int64()}
        return [*texts, *sizes, *(pl.lit(None, kinds[name]).alias(name) for name in kinds)]
    fields = hafnia_table.label_fields(schema)
    labels = pl.col("classifications").list
    if "task_name" in fields:
        labels = labels.filter(pl.element().struct.field("task_name").cast(pl.String) == task).list
    if "ground_truth" in fields:  # False: a prediction that some model left in the dataset
        labels = labels.filter(pl.element().struct.field("ground_truth").fill_null(True)).list
    first = labels.first().struct
    names = labels.eval(
        pl.element()
        .struct.field("class_name")
        .cast(pl.String)
        .drop_nulls()
        .unique(maintain_order=True)
    )
    index = (
        first.field("class_idx").cast(pl.Int64, strict=False)
        if "class_idx" in fields
        else pl.lit(None, pl.Int64)
    )

    return [
        *texts,
        *sizes,
        first.field("class_name").cast(pl.String).cast(pl.Categorical).alias("name"),
        pl.when(names.list.len() > 1).then(names).alias("names"),
        index.alias("idx"),
    ]


def _check_labels(rows: pl.DataFrame, labels: Int32, names: list[str], where: str) -> None:
    """Check that each label is of the list of classes, and its index the one of its name.

    Raises:
        ValueError: names the first row that is wrong.
    """
    unknown = rows["name"].is_not_null().to_numpy() & (labels < 0)
    if unknown.any():
        row = rows.row(int(unknown.argmax()), named=True)
        alike = [name for name in names if name.casefold() == row["name"].strip().casefold()]
        remedy = f"write {alike[0]!r}" if alike else "correct it, or add the class to the list"
        raise ValueError(
            f"{where}, row {row['row']}: {row['file_path']} has the class {row['name']!r}, which is not in the list "
            f"of classes: {remedy}."
        )
    index = rows["idx"].fill_null(-1).to_numpy()
    wrong = (index >= 0) & (labels >= 0) & (index != labels)
    if wrong.any():
        row = rows.row(int(wrong.argmax()), named=True)
        raise ValueError(
            f"{where}, row {row['row']}: {row['file_path']} has the class {row['name']!r} but the index {row['idx']}: "
            f"by the list of classes that name has index {names.index(row['name'])}. Correct the dataset's annotations."
        )
