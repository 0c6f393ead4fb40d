"""Choose the images on which an exported file is compared with its checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer_classification.arrays import Int64, Uint8
from trainer_classification.checkpoint.load_model import Model
from trainer_classification.data import manifest as manifests
from trainer_classification.data.decode import BadImageError, decode
from trainer_classification.data.table import open_table
from trainer_classification.files import read_file
from trainer_classification.inference.preprocess import match_channels
from trainer_classification.inference.run_dataset import find_prepared

_SPLITS = ("test", "validation", "train")


@dataclass(frozen=True)
class LabeledFiles:
    """Image files and their classes.

    Attributes:
        paths: N of them.
        labels: int64 [N]; -1: none.
    """

    paths: list[str]
    labels: Int64


def find_originals(
    model: Model, prepared: str, count: int, splits: Sequence[str] = _SPLITS
) -> LabeledFiles:
    """Return up to `count` images of the dataset that a model was trained on, spread over a split.

    Args:
        model: of `load_model`.
        prepared: folder that holds prepared datasets; "": as for `find_prepared`.
        count: most images.
        splits: of these, the first one that the dataset has.

    Returns:
        No images where the dataset is not prepared or its files are gone.
    """
    nothing = LabeledFiles([], np.empty(0, np.int64))
    folder = find_prepared(model, prepared)
    if folder is None:
        return nothing
    manifest = manifests.read(folder)
    split = next((name for name in splits if name in manifest.splits), "")
    if not split:
        return nothing

    table = open_table(folder, manifest, split)
    step = max(1, -(-len(table.files) // count))
    rows = [
        (str(Path(manifest.root) / name), label)
        for name, label in zip(table.files[::step], table.labels[::step], strict=True)
    ]
    there = [(path, label) for path, label in rows if Path(path).is_file()]
    return LabeledFiles(
        [path for path, _ in there], np.array([label for _, label in there], np.int64)
    )


def read_images(paths: Sequence[str], channels: int, gray_shift: int) -> list[Uint8]:
    """Decode files to what an exported graph takes: uint8 [H, W, channels] each.

    Args:
        paths: of the files.
        channels: of the model.
        gray_shift: bits that gray images of 16 and 32 bits lose, as of the model.

    Raises:
        ValueError: one cannot be read.
    """
    images = []
    for path in paths:
        try:
            images.append(match_channels(decode(read_file(path), gray_shift), channels))
        except (OSError, BadImageError) as error:
            raise ValueError(f"{path} cannot be compared on: {error}. Leave it out.") from None
    return images


def make_photographs(side: int, channels: int) -> list[Uint8]:
    """Make images from a seed, of waves and noise: smaller and larger than `side`, upright and lying, two of a size.

    Args:
        side: of the prepared images of a model in px.
        channels: 1 or 3.

    Returns:
        uint8 [H, W, channels] each.
    """
    shares = ((1, 1), (1, 1), (0.6, 0.8), (1.3, 1.9), (2.4, 1.7), (3.9, 2.2), (3.1, 5.2))
    return [
        _make_photograph(seed, max(1, round(tall * side)), max(1, round(wide * side)), channels)
        for seed, (tall, wide) in enumerate(shares)
    ]


def _make_photograph(seed: int, height: int, width: int, channels: int) -> Uint8:
    random = np.random.default_rng(seed)
    y = np.arange(height)[:, None, None]
    x = np.arange(width)[None, :, None]
    phase = random.uniform(0, 6, (2, channels))
    period = random.uniform(0.02, 0.1, 2) * max(height, width)
    waves = np.sin(x / period[0] + phase[0]) * np.cos(y / period[1] + phase[1])
    noise = random.normal(0, 20, (height, width, channels))
    return np.clip(128 + 90 * waves + noise, 0, 255).astype(np.uint8)
