"""What `prepare` can tell before it decodes: sizes, channels, splits, and so the slots of images in the shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from trainer_classification.data import array, beton, tar
from trainer_classification.data.source import Source
from trainer_classification.preparation import job as jobs
from trainer_classification.preparation import splits
from trainer_classification.preparation.preallocated import PreallocatedRegions

if TYPE_CHECKING:
    from trainer_classification.preparation.workers import Workers

Int64 = npt.NDArray[np.int64]

_GLANCED = 64  # images whose heads say whether the dataset is grey, until all are decoded
_MEASURED = 1024  # resized images, about, whose mean and deviation stand for all: right to a hundredth


def sizes(source: Source) -> Int64:
    """Widths and heights by the table, or where it is silent by the files' heads: int64 [n, 2]."""
    from PIL import Image

    found = source.sizes.copy()
    for row in np.flatnonzero((found <= 0).any(1)):
        try:
            with Image.open(source.paths[row]) as image:
                found[row] = image.size
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            found[row] = 1  # the job will name it
    return found


def channels(source: Source) -> int:
    """1 if images all over the dataset are grey, else 3."""
    from trainer_classification.data.decode import is_grey

    rows = np.linspace(0, len(source.files) - 1, _GLANCED, dtype=np.int64).tolist()
    return 1 if all(is_grey(source.paths[row]) for row in rows) else 3


def measured(source: Source, geometry: jobs.ArrayLayout) -> npt.NDArray[np.bool_]:
    """The train images that the statistics are taken of, whatever the formats: all, or if they are resized some.

    What is not measured need not be resized for a format that keeps the files.
    """
    train = np.flatnonzero(source.splits == "train")
    chosen = np.zeros(len(source.files), bool)
    chosen[train[:: max(1, len(train) // _MEASURED) if geometry.resized else 1]] = True
    return chosen


def slots_for(
    source: Source, work: jobs.PrepareSpec, fractions: tuple[float, float], folder: Path, workers: Workers
) -> dict[str, PreallocatedRegions]:
    """The slots of all formats but JPEG betons, whose sizes are not known; files for them are made in `folder`.

    Small images alone are sooner copied than all files read for their hashes, unless a tar wants these read twice.

    Args:
        source: with all sizes.
        work: what is made of the images.
        fractions: of validation and of test, as for `splits.cut_missing`.
        folder: of the parts.
        workers: read the files.
    """
    if not work.geometry.resized and "tar" not in work.formats:
        return {}
    raw = work.beton.mode == "raw" or not work.geometry.resized
    wanted = [name for name in work.formats if name != "beton" or raw]
    missing = bool(wanted) and splits.are_missing(source.splits, fractions[0])
    hashes = _hashes(source.paths, workers) if missing else np.full(len(source.files), "")
    split_of, origin = splits.cut_missing(source.splits, source.labels, hashes, *fractions)
    rows_of = {split: np.flatnonzero(split_of == split) for split in origin}
    made = {name: _slots(name, source, work, rows_of, folder) for name in wanted}
    for slots in made.values():
        slots.make_files()
    return made


def _hashes(paths: list[str], workers: Workers) -> npt.NDArray[np.str_]:
    """Content hash of each file, as jobs note it; "" of those that cannot be read."""
    pieces = [paths[start : start + jobs.SIZE] for start in range(0, len(paths), jobs.SIZE)]
    return np.concatenate(workers.run("reading", jobs.hashes, pieces))


def _slots(
    name: str, source: Source, work: jobs.PrepareSpec, rows_of: dict[str, Int64], folder: Path
) -> PreallocatedRegions:
    file, places, sizes, samples = (np.zeros(len(source.files), np.int64) for _ in range(4))
    files: list[Path] = []
    for split, rows in rows_of.items():
        samples[rows] = np.arange(len(rows))
        shard, places[rows], sizes[rows] = _LAID_OUT[name](source, work, rows)
        file[rows] = shard + len(files)
        files += [folder / f"{name}-{split}-{number:06d}" for number in range(int(shard.max()) + 1)]
    return PreallocatedRegions(files, file, places, sizes, samples)


def _array(source: Source, work: jobs.PrepareSpec, rows: Int64) -> tuple[Int64, Int64, Int64]:
    """Shard, place and size of each image of a split, int64 [n] each; of the other formats below."""
    image = work.geometry.side**2 * work.geometry.channels
    return np.zeros_like(rows), array.places(len(rows), image), np.full_like(rows, image)


def _beton(source: Source, work: jobs.PrepareSpec, rows: Int64) -> tuple[Int64, Int64, Int64]:
    shown = source.sizes[rows] if work.geometry.resized else np.full((len(rows), 2), work.geometry.side)
    stored = [(beton.RAW, *beton.bounded(width, height, work.beton)) for width, height in shown.tolist()]
    payloads = np.array(stored)
    sizes = payloads[:, 1] * payloads[:, 2] * 3
    return np.zeros_like(rows), beton.layout(payloads, sizes, source.labels[rows]).places, sizes


def _tar(source: Source, work: jobs.PrepareSpec, rows: Int64) -> tuple[Int64, Int64, Int64]:
    plan = tar.layout(source.bytes[rows], source.labels[rows])
    shard = np.zeros_like(rows)
    for number, samples in enumerate(plan.shards):
        shard[samples] = number
    return shard, plan.places, plan.sizes


_LAID_OUT = {"array": _array, "beton": _beton, "tar": _tar}
