"""Find a Hafnia dataset and read its table. No other file imports `hafnia.dataset`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainer_classification.environment import in_cloud

if TYPE_CHECKING:
    import polars as pl

CLOUD_FOLDER = "/opt/ml/input/data/training"  # the SDK's default where MDI_DATASET_DIR is not set
PUBLIC = ("mnist", "cifar10", "cifar100", "caltech-101", "caltech-256")  # the SDK converts these without an account
VERSION = "1.0.0"
SPLITS = ("train", "validation", "test")
_ALIASES = {"val": "validation", "valid": "validation", "training": "train", "testing": "test"}
_SAMPLES = Path(__file__).parents[3] / "samples"


@dataclass(frozen=True)
class Source:
    """The labelled images of one classification task, in the order of the dataset's table.

    Attributes:
        name, version, task: of the dataset.
        class_names: index = label.
        root: folder that `files` are relative to.
        files: path of each image.
        splits: str [n], "train", "validation" or "test".
        labels: int64 [n].
        sizes: int64 [n, 2], width and height in px by the table; 0 where it has none.
        unlabelled: number of rows left out because they have no label of this task.
        notes: sentences that the user should read.
    """

    name: str
    version: str
    task: str
    class_names: list[str]
    root: Path
    files: list[str]
    splits: npt.NDArray[np.str_]
    labels: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    unlabelled: int = 0
    notes: list[str] = field(default_factory=list)

    @cached_property
    def paths(self) -> list[str]:
        """Paths of the images, absolute or relative to the current folder."""
        return [os.path.join(self.root, path) for path in self.files]

    @cached_property
    def bytes(self) -> npt.NDArray[np.int64]:
        """Size of each file: int64 [n]; 0 where there is no file."""
        return np.array([_file_size(path) for path in self.paths], np.int64)


def find_dataset(dataset: str, task: str = "") -> Source:
    """Find a dataset by name or folder and read its table.

    These are tried in order: the dataset mounted by Training-aaS; a folder; `.data/datasets/<name>`; the platform, if a
    profile or key is configured; the SDK's converter of public datasets; the bundled sample of that name.

    Args:
        dataset: name or folder. Empty: mnist, unless a dataset is mounted.
        task: name of the classification task. Empty: the only one.

    Raises:
        ValueError: it is not found (lists what was tried), or its table is wrong (says where).
    """
    if in_cloud():
        return read_folder(Path(os.environ.get("MDI_DATASET_DIR", CLOUD_FOLDER)), task)
    if dataset and (Path(dataset).is_dir() or "/" in dataset):
        return read_folder(Path(dataset), task)
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
    raise ValueError(
        f"There is no dataset {name!r}. Tried {'; '.join(tried)}. Give the folder of a dataset, or run "
        f"`hafnia configure` and then `hafnia dataset download {name}`."
    )


class _NotThereError(Exception):
    """The dataset cannot be found in this way; the next way may find it."""


def read_folder(folder: Path, task: str = "") -> Source:
    """Read a folder that holds a Hafnia dataset (dataset_info.json and annotations) or images as <split>/<class>/*.

    Raises:
        ValueError: it holds neither, or its table is wrong.
    """
    if (folder / "dataset_info.json").is_file():
        info = json.loads((folder / "dataset_info.json").read_text())
        return _from_table(info, _table(folder), folder.absolute(), task)
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    if not any((folder / name).is_dir() for name in (*SPLITS, *_ALIASES)):
        raise ValueError(
            f"{folder} is no dataset: neither dataset_info.json nor folders of images as train/<class>/*.jpg."
        )
    from hafnia.dataset.hafnia_dataset import HafniaDataset

    dataset = HafniaDataset.from_image_classification_folder(folder, dataset_name=folder.absolute().name)
    return _from_sdk(dataset, folder.absolute(), task)


def _table(folder: Path) -> pl.DataFrame:
    import polars as pl

    if (folder / "annotations.parquet").is_file():
        return pl.read_parquet(folder / "annotations.parquet")
    if (folder / "annotations.jsonl").is_file():
        return pl.read_ndjson(folder / "annotations.jsonl", infer_schema_length=None)
    raise ValueError(f"{folder} has neither annotations.parquet nor annotations.jsonl: download the dataset again.")


def _from_sdk(dataset: Any, root: Path, task: str) -> Source:
    return _from_table(dataset.info.model_dump(mode="json"), dataset.samples, root, task)


def _from_platform(name: str, task: str) -> Source:
    keys = os.environ.get("HAFNIA_API_KEY") and os.environ.get("HAFNIA_PLATFORM_URL")
    profile = Path(os.environ.get("MDI_CONFIG_PATH", Path.home() / ".hafnia/config.json"))
    if not keys and not profile.is_file():
        raise _NotThereError("no profile or key is configured (`hafnia configure`)")
    return _through_sdk(lambda sdk: sdk.from_name(name, VERSION), task)


def _from_public(name: str, task: str) -> Source:
    if name not in PUBLIC:
        raise _NotThereError(f"it has only {', '.join(PUBLIC)}")
    return _through_sdk(lambda sdk: sdk.from_name_public_dataset(name), task)


def _through_sdk(load: Callable[[Any], Any], task: str) -> Source:
    from hafnia.dataset.hafnia_dataset import HafniaDataset

    try:
        dataset = load(HafniaDataset)
    except Exception as error:  # the SDK passes on what its HTTP, S3 and torchvision layers raise
        text = " ".join(str(error).split()) or type(error).__name__
        raise _NotThereError(text[:200]) from error
    return _from_sdk(dataset, Path.cwd(), task)


def _from_folder(folder: Path, task: str) -> Source:
    if not folder.is_dir():
        raise _NotThereError("not there")
    source = read_folder(folder, task)
    if folder.parent == _SAMPLES:
        source.notes.append(f"This is the small bundled sample of {source.name}, not the whole dataset.")
    return source


def _from_table(info: dict[str, Any], table: pl.DataFrame, root: Path, task: str) -> Source:
    import polars as pl

    chosen = choose_task(info, task)
    names = [entry["name"] for entry in chosen["classes"]]
    rows = _labelled(table, chosen["name"])
    labels = rows["name"].replace_strict({n: i for i, n in enumerate(names)}, default=-1, return_dtype=pl.Int64)
    labels_N = labels.to_numpy()
    _check_labels(rows, labels_N, names)
    splits = rows["split"].replace(_ALIASES)
    known = (labels >= 0) & splits.is_in(list(SPLITS))
    strays = sorted(set(splits.filter(~splits.is_in(list(SPLITS))).to_list()))
    notes = [f"Rows of split {', '.join(strays)} are left out: known are {', '.join(SPLITS)}."] if strays else []
    rows, splits, labels_N = rows.filter(known), splits.filter(known), labels_N[known.to_numpy()]
    empty = [names[i] for i in np.flatnonzero(np.bincount(labels_N, minlength=len(names)) == 0)]
    if empty:
        notes.append(f"{len(empty)} of {len(names)} classes have no image: {', '.join(empty[:10])}.")
    if not len(labels_N):
        raise ValueError(f"The dataset {info['dataset_name']} has no labelled images of task {chosen['name']!r}.")
    return Source(
        name=info["dataset_name"],
        version=info.get("version") or "0.0.0",
        task=chosen["name"],
        class_names=names,
        root=root,
        files=rows["file_path"].to_list(),
        splits=np.array(splits.to_list()),
        labels=labels_N,
        sizes=rows.select(pl.col("width", "height").fill_null(0).cast(pl.Int64)).to_numpy(),
        unlabelled=int((labels < 0).sum()),
        notes=notes,
    )


def choose_task(info: dict[str, Any], task: str) -> dict[str, Any]:
    """Choose the classification task to train on.

    Raises:
        ValueError: there is none, none of that name, or several and no name was given; lists the tasks.
    """
    tasks = {entry["name"]: entry for entry in info["tasks"] if _primitive(entry) == "Classification"}
    others = [f"{entry['name']} ({_primitive(entry)})" for entry in info["tasks"] if entry["name"] not in tasks]
    name = info["dataset_name"]
    if not tasks:
        raise ValueError(f"The dataset {name} has no classification task; it has: {', '.join(others) or 'none'}.")
    if task and task not in tasks:
        raise ValueError(f"The dataset {name} has no classification task {task!r}; it has: {', '.join(tasks)}.")
    if not task and len(tasks) > 1:
        raise ValueError(f"The dataset {name} has several tasks; choose with --task: {', '.join(tasks)}.")
    chosen = tasks[task or next(iter(tasks))]
    if not chosen.get("classes"):
        raise ValueError(f"The task {chosen['name']!r} of the dataset {name} has no list of classes.")
    return dict(chosen)


def _primitive(task: dict[str, Any]) -> str:
    primitive = task["primitive"]
    return primitive if isinstance(primitive, str) else primitive["name"]


def _labelled(table: pl.DataFrame, task: str) -> pl.DataFrame:
    """Return columns file_path, split, width, height, name and idx; name is null without a label of this task."""
    import polars as pl

    columns = [pl.col(column) if column in table.columns else pl.lit(0).alias(column) for column in ("width", "height")]
    if "classifications" not in table.columns:
        label = [pl.lit(None, pl.String).alias("name"), pl.lit(None, pl.Int64).alias("idx")]
        return table.select("file_path", "split", *columns, *label)
    fields = set(table["classifications"].explode().struct.fields)
    labels = pl.col("classifications").list
    if "task_name" in fields:
        labels = labels.filter(pl.element().struct.field("task_name") == task).list
    if "ground_truth" in fields:  # False: the prediction of a model
        labels = labels.filter(pl.element().struct.field("ground_truth").fill_null(True)).list
    first = labels.first().struct
    index = first.field("class_idx").cast(pl.Int64) if "class_idx" in fields else pl.lit(None, pl.Int64)
    return table.select("file_path", "split", *columns, first.field("class_name").alias("name"), index.alias("idx"))


def _check_labels(rows: pl.DataFrame, labels: npt.NDArray[np.int64], names: list[str]) -> None:
    unknown = rows["name"].is_not_null().to_numpy() & (labels < 0)
    if unknown.any():
        row = rows.row(int(unknown.argmax()), named=True)
        raise ValueError(f"{row['file_path']} has the class {row['name']!r}, which is not in the list of classes.")
    index = rows["idx"].fill_null(-1).to_numpy()
    wrong = (index >= 0) & (labels >= 0) & (index != labels)
    if wrong.any():
        row = rows.row(int(wrong.argmax()), named=True)
        raise ValueError(
            f"{row['file_path']} has the class {row['name']!r} but the index {row['idx']}: by the list of classes that "
            f"name has index {names.index(row['name'])}. Correct the dataset's annotations."
        )


def _file_size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0  # the job that reads it will give the reason
