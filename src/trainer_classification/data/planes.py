"""The `planes` format: photographs as Y, Cb and Cr at 4:2:0, in about half the bytes of the array.

planes/<split>.planes.bin    uint8 [N, S * S * 3 / 2], no header; an image is Y, then Cb and Cr at half the side,
                             each as [x, y]; uint8 [N, S, S] if every image is gray

Colors are those of JPEG files (JFIF: BT.601 of full range). They become RGB when a crop has its final size. The side S
is a little larger than the array's (`ArrayLayout.planes_side`), which makes up for the chroma.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from trainer_classification.data.array import ArrayStore, list_extents, open_remote
from trainer_classification.data.formats import Extents, SplitShards
from trainer_classification.data.manifest import Manifest, check_files, check_format, damaged
from trainer_classification.data.table import open_table


def path(split: str) -> str:
    """Return the path of a split's images, relative to the manifest's folder."""
    return f"planes/{split}.planes.bin"


def image_bytes(side: int, channels: int) -> int:
    """Return the bytes of an image of this side in px."""
    return side**2 * 3 // 2 if channels == 3 else side**2


def open_planes(
    folder: Path, manifest: Manifest, split: str, on_demand: bool = False
) -> ArrayStore:
    """Memory-map a split.

    Arguments and errors are those of `open_array`.

    Returns:
        The images, of layout "YCC"; those of a gray dataset are an array of layout
        "WHC".
    """
    table = open_table(folder, manifest, split)
    check_format(folder, manifest, "planes")
    name = path(split)
    check_files(folder, manifest, split, [name], on_demand)

    count = manifest.splits[split].count
    side = _read_side(folder, manifest, name)
    length = image_bytes(side, manifest.channels)
    if count * length != manifest.files[name].bytes:
        raise damaged(folder / name, manifest, f"it does not hold {count} images of {side} px")

    is_gray = manifest.channels == 1
    shape = (count, side, side, 1) if is_gray else (count, length)
    images = np.memmap(folder / name, np.uint8, "r", shape=shape)
    remote = open_remote(folder, manifest, name, count, length) if on_demand else None

    return ArrayStore(images, table.labels, table.sizes, "WHC" if is_gray else "YCC", remote)


def _read_side(folder: Path, manifest: Manifest, name: str) -> int:
    side: Any = manifest.formats["planes"].get("side")
    if not isinstance(side, int) or side < 2 or side % 2:
        raise damaged(folder / name, manifest, f"its side is {str(side)[:60]!r}")
    return side


def extents(shards: SplitShards) -> list[Extents]:
    """Return where a reader finds the images of a split."""
    length = image_bytes(shards.layout.planes_side, shards.layout.channels)
    return list_extents(path(shards.split), shards.count, length)
