"""The `array` format: per split one raw uint8 file that is memory-mapped, labels, and the original sizes.

    array/<split>.images.bin    uint8 [N, S, S, C], no header; an image's bytes are [y, x, c], or [x, y, c] for "WHC"
    array/<split>.labels.npy    int64 [N]
    array/<split>.sizes.npy     int32 [N, 2], width and height of the originals in px
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from trainer_classification.data.manifest import Manifest


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
