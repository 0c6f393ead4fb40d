"""The `array` format: per split one raw uint8 file that is memory-mapped, labels, and the original sizes.

array/<split>.images.bin    uint8 [N, S, S, C], no header; an image's bytes are [y, x, c], or [x, y, c] for "WHC"
array/<split>.labels.npy    int64 [N]
array/<split>.sizes.npy     int32 [N, 2], width and height of the originals in px
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from trainer_classification.data.manifest import FileInfo, Manifest, file_info

if TYPE_CHECKING:  # a bare machine that only reads arrays has neither Pillow nor xxhash
    from trainer_classification.data.jobs import Geometry, Part

Labels = npt.NDArray[np.int64]
JOB = 500  # images of a part


@dataclass(frozen=True)
class ArrayStore:
    """One split of the array format.

    Attributes:
        images: uint8 [N, S, S, C], memory-mapped, read only.
        labels: int64 [N].
        sizes: int32 [N, 2], width and height of the originals in px.
        layout: "HWC", or "WHC": images[n] is [x, y, c].
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int32]
    layout: Literal["HWC", "WHC"] = "HWC"


def paths(split: str) -> tuple[str, str, str]:
    """Paths of a split's images, labels and sizes, relative to the manifest's folder."""
    return f"array/{split}.images.bin", f"array/{split}.labels.npy", f"array/{split}.sizes.npy"


def open_array(folder: Path, manifest: Manifest, split: str) -> ArrayStore:
    """Memory-map a split.

    Raises:
        ValueError: the split is not there, or a file has not the size that the manifest says.
    """
    if split not in manifest.splits:
        raise ValueError(f"{folder} has no split {split!r}; it has: {', '.join(manifest.splits)}.")
    for name in paths(split):
        size = (folder / name).stat().st_size if (folder / name).is_file() else None
        if size != manifest.files[name].bytes:
            raise ValueError(
                f"{folder / name} is damaged ({size} bytes instead of {manifest.files[name].bytes}): prepare the "
                f"dataset again: python scripts/prepare.py --dataset {manifest.dataset} --force"
            )
    images, labels, sizes = (folder / name for name in paths(split))
    side = manifest.image_size
    shape = (manifest.splits[split].count, side, side, manifest.channels)
    return ArrayStore(np.memmap(images, np.uint8, "r", shape=shape), np.load(labels), np.load(sizes), manifest.layout)


@dataclass(frozen=True)
class Gathered:
    """Written array files: channels, mean and std of train per channel (of 0..1), and path -> FileInfo."""

    channels: int
    mean: list[float]
    std: list[float]
    files: dict[str, FileInfo]


def gather(
    folder: Path, stems: Sequence[Path], found: Part, split_of: npt.NDArray[np.str_], labels: Labels, geometry: Geometry
) -> Gathered:
    """Write the array files of all splits from the parts, images in the order of the source.

    Args:
        folder: gets `array/`.
        stems: of the parts, in order.
        found: rows of all parts.
        split_of: str [m], the split of each good image.
        labels: int64 [n], of all images.
        geometry: of the parts.
    """
    good = found.reasons == ""
    channels = 1 if found.grey[good].all() else 3
    (folder / "array").mkdir(exist_ok=True)
    files: dict[str, FileInfo] = {}
    for split in dict.fromkeys(split_of.tolist()):
        member = np.zeros(len(good), np.bool_)
        member[good] = split_of == split
        images, label_file, size_file = (folder / name for name in paths(split))
        with images.open("wb") as file:
            for rows in _rows_of(stems, found, member, channels, geometry.side):
                rows.tofile(file)
        np.save(label_file, labels[member])
        np.save(size_file, found.sizes[member])
        files |= {name: file_info(folder / name) for name in paths(split)}
    train = np.zeros(len(good), np.bool_)
    train[good] = split_of == "train"
    mean, std = _statistics(found, train, channels, geometry.side)
    return Gathered(channels, mean, std, files)


def _rows_of(
    stems: Sequence[Path], found: Part, member: npt.NDArray[np.bool_], channels: int, side: int
) -> Iterator[npt.NDArray[np.uint8]]:
    """The member images of each part, uint8 [k, S, S, C]; one part at a time is in memory."""
    for number, stem in enumerate(stems):
        part = slice(number * JOB, (number + 1) * JOB)
        good = found.reasons[part] == ""
        if member[part].any():
            stored = 1 if found.grey[part][good].all() else 3
            images = np.fromfile(stem.with_suffix(".bin"), np.uint8).reshape(-1, side, side, stored)
            rows = images[member[part][good]]
            yield np.repeat(rows, 3, axis=3) if channels > stored else rows


def _statistics(
    found: Part, member: npt.NDArray[np.bool_], channels: int, side: int
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of 0..1, exact: from integer sums."""
    sums = np.where(found.grey[:, None], found.sums[:, :1], found.sums)[member, :channels].sum(0)
    squares = np.where(found.grey[:, None], found.squares[:, :1], found.squares)[member, :channels].sum(0)
    count = int(member.sum()) * side * side
    mean = sums / count
    return (mean / 255).tolist(), (np.sqrt(squares / count - mean**2) / 255).tolist()
