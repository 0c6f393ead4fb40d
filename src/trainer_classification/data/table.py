"""The table of a split: labels, sizes and names of the original files.

It belongs to every format.

table/<split>.labels.npy    int64 [N], -1 in the splits without labels
table/<split>.sizes.npy     int32 [N, 2], width and height of the originals in px, upright
table/<split>.files.json    N paths: the original files, relative to the manifest's `root`

The row is the sample id in every format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer_classification.data.file_names import read_names, write_names
from trainer_classification.data.manifest import Manifest, check_contents, check_files, damaged


@dataclass(frozen=True)
class Table:
    """The table of one split.

    Attributes:
        labels: int64 [N]; -1: none.
        sizes: int32 [N, 2], width and height of the originals in px.
        files: N paths of the originals, relative to the manifest's `root`.
    """

    labels: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int32]
    files: Sequence[str]


def paths(split: str) -> tuple[str, str, str]:
    """Return the paths of a split's labels, sizes and file names, relative to the manifest's folder."""
    return f"table/{split}.labels.npy", f"table/{split}.sizes.npy", f"table/{split}.files.json"


def save_table(folder: Path, split: str, table: Table) -> None:
    """Write a split's table."""
    (folder / "table").mkdir(exist_ok=True)
    labels, sizes, files = (folder / name for name in paths(split))
    np.save(labels, table.labels)
    np.save(sizes, table.sizes)
    with files.open("wb") as file:
        write_names(file, table.files)


def open_table(folder: Path, manifest: Manifest, split: str) -> Table:
    """Read a split's table.

    Raises:
        ValueError: the split is missing, or a file is damaged.
    """
    check_files(folder, manifest, split, paths(split))
    check_contents(folder, manifest, paths(split))
    labels, sizes, files = (folder / name for name in paths(split))
    try:
        table = Table(np.load(labels), np.load(sizes), read_names(files.read_bytes()))
    except Exception as error:  # numpy's parser raises many kinds on a damaged header
        raise damaged(folder / "table", manifest, f"split {split}: {error}") from error

    count = manifest.splits[split].count
    is_known = (table.labels >= -1) & (table.labels < len(manifest.class_names))
    if table.sizes.shape != (count, 2) or len(table.files) != count or is_known.shape != (count,):
        raise damaged(folder / "table", manifest, f"split {split} has not {count} rows")
    if not is_known.all():
        raise damaged(labels, manifest, "labels that are no class")
    return table
