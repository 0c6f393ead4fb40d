"""Two datasets, prepared in all formats, so that every engine can be asked the same."""

import numpy as np
import pytest
from PIL import Image

from helpers import encoded, photograph, write_dataset
from trainer_classification.config import PrepareConfig
from trainer_classification.preparation.pipeline import prepare

COUNTS = {"train": 53, "test": 10}
ROTATED = Image.Exif()
ROTATED[0x0112] = 6  # to be turned by a quarter for viewing


def smooth(seed: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Return a photograph, without an axis for one channel."""
    pixels = photograph(seed, height, width, channels)
    return pixels if channels > 1 else pixels[:, :, 0]


def png(seed: int, split: str) -> dict:
    return {"data": encoded(smooth(seed, 20, 20)), "width": 20, "height": 20}


def grey(seed: int, split: str) -> dict:
    height, width = np.random.default_rng(seed).integers(12, 21, 2).tolist() if seed % 10 else (20, 20)
    return {"data": encoded(smooth(seed, height, width, 1)), "width": width, "height": height}


def jpeg(seed: int, split: str) -> dict:
    """Sizes differ; one in nine is grey, one in seven to be turned, one in eleven a PNG with transparency."""
    height, width = np.random.default_rng(seed).integers(66, 130, 2).tolist()
    pixels = smooth(seed, height, width, 1 if seed % 9 == 4 else 3)
    if seed % 11 == 5:
        return {"data": encoded(np.dstack([smooth(seed, height, width), smooth(seed + 1, height, width, 1)]))}
    more = {"exif": ROTATED} if seed % 7 == 3 else {}
    return {"data": encoded(pixels, "JPEG", quality=92, **more), "suffix": ".jpg"}


def made(folder, make, image_size):
    """Prepared for `image_size` px, without validation images."""
    rows = [
        {"label": "abcde"[seed * 7 % 5], "split": split, "width": 100, "height": 100} | make(seed, split)
        for split, first in (("train", 0), ("test", 100))
        for seed in range(first, first + COUNTS[split])
    ]
    dataset = write_dataset(folder / "dataset", rows, list("abcde"), name="made")
    config = PrepareConfig(
        dataset=str(dataset),
        prepared=str(folder / "out"),
        image_size=image_size,
        validation_fraction=0,
        formats=PrepareConfig.formats + (",planes" if make is jpeg else ""),
        beton_side=110,  # some are larger
        workers=1,
    )
    prepared = prepare(config)
    assert {name: split.count for name, split in prepared.manifest.splits.items()} == COUNTS
    return prepared.folder, prepared.manifest


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """20 px colour images kept at their size."""
    return made(tmp_path_factory.mktemp("small"), png, 20)


@pytest.fixture(scope="session")
def uneven(tmp_path_factory):
    """Grey images of 12 to 20 px, padded to 20 px."""
    folder, manifest = made(tmp_path_factory.mktemp("uneven"), grey, 20)
    assert (manifest.image_size, manifest.channels) == (20, 1)
    return folder, manifest


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Photographs of unequal size, in the array at 40 px, x first, for crops of 32 px."""
    folder, manifest = made(tmp_path_factory.mktemp("photos"), jpeg, 32)
    assert (manifest.image_size, manifest.layout, manifest.channels) == (40, "WHC", 3)
    return folder, manifest
