"""The `array` format: one raw uint8 file per split, which is memory-mapped.

array/<split>.images.bin    uint8 [N, S, S, C], no header; an image is [y, x, c], or [x, y, c] for "WHC"

Labels and the original sizes are in the split's table (`table.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from trainer_classification.data.formats import Extents, SplitShards
from trainer_classification.data.manifest import Manifest, check_files, check_format
from trainer_classification.data.mirror import is_mirror
from trainer_classification.data.remote_images import RemoteImages, open_images
from trainer_classification.data.table import open_table


@dataclass(frozen=True)
class ArrayStore:
    """One split of the array format.

    Attributes:
        images: uint8 [N, S, S, C], memory-mapped, read only; for "YCC" uint8 [N, S *
            S * 3 / 2], as `planes.py` describes.
        labels: int64 [N].
        sizes: int32 [N, 2], width and height of the originals in px.
        layout: "HWC", or "WHC": images[n] is [x, y, c]; or "YCC".
        remote: fetches images that have to be asked for before they are read; None:
            all are here.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int32]
    layout: Literal["HWC", "WHC", "YCC"] = "HWC"
    remote: RemoteImages | None = None


def path(split: str) -> str:
    """Return the path of a split's images, relative to the manifest's folder."""
    return f"array/{split}.images.bin"


def open_array(folder: Path, manifest: Manifest, split: str, on_demand: bool = False) -> ArrayStore:
    """Memory-map a split.

    Args:
        folder: of the prepared dataset.
        manifest: of the prepared dataset.
        split: one of its splits.
        on_demand: do not fetch a split in object storage now, but by
            `ArrayStore.remote` what is asked for.

    Raises:
        ValueError: the split or the format is missing, or a file does not have
            the size that the manifest gives.
    """
    table = open_table(folder, manifest, split)
    check_format(folder, manifest, "array")
    name = path(split)
    check_files(folder, manifest, split, [name], on_demand)

    side = manifest.image_size
    shape = (manifest.splits[split].count, side, side, manifest.channels)
    images = np.memmap(folder / name, np.uint8, "r", shape=shape)
    remote = None
    if on_demand:
        remote = open_remote(folder, manifest, name, len(images), manifest.image_bytes)

    return ArrayStore(images, table.labels, table.sizes, manifest.layout, remote)


def open_remote(
    folder: Path, manifest: Manifest, name: str, count: int, image_bytes: int
) -> RemoteImages | None:
    """Return what fetches images of one size that lie one after another; None if all are here.

    Args:
        folder: of the prepared dataset.
        manifest: of the prepared dataset.
        name: of the file, relative to the folder.
        count: number of images.
        image_bytes: of each.
    """
    if not is_mirror(folder):
        return None
    files = {name: manifest.files[name].bytes}
    every = np.broadcast_to(np.int64(0), count)
    return open_images(folder, files, every, offsets(count, image_bytes), every + image_bytes)


def offsets(count: int, image_bytes: int) -> npt.NDArray[np.int64]:
    """Return where each image starts in the file: int64 [count]."""
    return np.arange(count, dtype=np.int64) * image_bytes


def extents(shards: SplitShards) -> list[Extents]:
    """Return where a reader finds the images of a split."""
    return list_extents(path(shards.split), shards.count, shards.layout.image_bytes)


def list_extents(name: str, count: int, image_bytes: int) -> list[Extents]:
    """Return where images of one size are that lie one after another in a file; arguments as of `open_remote`."""
    sizes = np.broadcast_to(np.int64(image_bytes), count)  # which takes no memory
    return [Extents(name, np.arange(count), offsets(count, image_bytes), sizes)]
