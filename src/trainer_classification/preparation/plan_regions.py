"""Lay out the shards before images are decoded, where their sizes are known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer_classification.arrays import Int64
from trainer_classification.data.source import Source
from trainer_classification.data.split_names import NUMBER_OF
from trainer_classification.preparation import splits
from trainer_classification.preparation.format import PrepareSpec
from trainer_classification.preparation.formats import FORMATS
from trainer_classification.preparation.preallocated import PreallocatedRegions
from trainer_classification.preparation.reuse import hash_files
from trainer_classification.preparation.workers import Workers


@dataclass(frozen=True)
class RegionPlan:
    """The preallocated regions of all images.

    Attributes:
        samples: int64 [n], the sample ids if every image is good; None if there
            are no regions.
        regions: by the name of the format.
    """

    samples: Int64 | None
    regions: dict[str, PreallocatedRegions]


def names_with_regions(spec: PrepareSpec) -> list[str]:
    """Return the formats whose images get preallocated regions."""
    # Copying small images costs less than reading all files for their hashes,
    # unless a format reads them twice anyway.
    if not spec.layout.resized and not any(FORMATS[name].reads_originals for name in spec.formats):
        return []
    return [name for name in spec.formats if FORMATS[name].sizes_known(spec)]


def plan_regions(
    source: Source,
    spec: PrepareSpec,
    fractions: tuple[float, float],
    hashes: npt.NDArray[np.bytes_],
    folder: Path,
    workers: Workers,
) -> RegionPlan:
    """Lay out all formats whose image sizes are known, and make the files of their future shards.

    Args:
        source: with all sizes.
        spec: what is made of the images.
        fractions: of validation and of test, as for `splits.cut_missing`.
        hashes: HASH [n], of the files; b"" where not known.
        folder: gets the files.
        workers: read the images where splits have to be cut by their hashes.
    """
    names = names_with_regions(spec)
    if not names:
        return RegionPlan(None, {})

    if splits.are_missing(source.split_numbers, fractions[0]):
        hashes = _complete(hashes, source, workers)
    split_of, origin = splits.cut_missing(source.split_numbers, source.labels, hashes, *fractions)
    rows_of = {split: np.flatnonzero(split_of == NUMBER_OF[split]) for split in origin}

    samples = np.zeros(len(source.files), np.int64)
    for rows in rows_of.values():
        samples[rows] = np.arange(len(rows))
    regions = {name: _lay_out(name, source, spec, rows_of, folder) for name in names}
    for format_regions in regions.values():
        format_regions.make_files()

    return RegionPlan(samples, regions)


def _complete(
    hashes: npt.NDArray[np.bytes_], source: Source, workers: Workers
) -> npt.NDArray[np.bytes_]:
    """Return the hashes with those that are not known yet."""
    is_unknown = hashes == b""
    if is_unknown.all():
        return hash_files(source.paths, workers)
    unknown = np.flatnonzero(is_unknown)
    complete = hashes.copy()
    complete[unknown] = hash_files(source.paths.take(unknown), workers)
    return complete


def _lay_out(
    name: str, source: Source, spec: PrepareSpec, rows_of: dict[str, Int64], folder: Path
) -> PreallocatedRegions:
    count = len(source.files)
    file = np.zeros(count, np.int32)
    offsets = np.zeros(count, np.int64)
    sizes = np.zeros(count, np.int64)
    files: list[str] = []
    for split, rows in rows_of.items():
        planned = FORMATS[name].layout(source, spec, rows)
        file[rows] = planned.shard + len(files)
        offsets[rows] = planned.offsets
        sizes[rows] = planned.sizes
        files += [
            str(folder / f"{name}-{split}-{number:06d}")
            for number in range(int(planned.shard.max()) + 1)
        ]

    return PreallocatedRegions(files, file, _narrow(offsets), _narrow(sizes))


def _narrow(values: Int64) -> npt.NDArray[np.integer[Any]]:
    """Return numbers of 0 and more in four bytes each, if these suffice."""
    return values.astype(np.uint32) if values.max() <= np.iinfo(np.uint32).max else values
