"""Batches of images that are only shifted are made smaller, as Pillow would."""

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import noise
from trainer_classification.loaders.base import Batch, BatchSchedule, Loader
from trainer_classification.loaders.shrink import ShrinkingLoader, shrink


class Stored(Loader):
    """Three batches in one buffer, as loaders have it."""

    def __init__(self):
        super().__init__(BatchSchedule(None, 5, 2))
        self.images = torch.empty(2, 32, 32, 3, dtype=torch.uint8)
        self.ended = []

    def _batches(self, epoch, start_step):
        try:
            for step in range(start_step, 3):
                self.images.copy_(torch.from_numpy(noise(10 * epoch + step, 2, 32 * 96)).view_as(self.images))
                yield Batch(self.images, torch.tensor([step, 7]), torch.tensor([2 * step, -1]), 1)
        finally:
            self.ended.append("epoch")

    def close(self):
        self._end_epoch()
        self.ended.append("loader")


@pytest.mark.parametrize("side", [9, 20, 28, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_of_pillow(side, channels):
    images = noise(1, 4, 32 * 32 * channels).reshape(4, 32, 32, channels)
    found = shrink(torch.from_numpy(images), side)
    assert (found.shape, found.dtype) == ((4, side, side, channels), torch.uint8)
    assert found.is_contiguous()
    for image, resized in zip(images, found.numpy(), strict=True):
        expected = Image.fromarray(image.squeeze()).resize((side, side), Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(expected).reshape(resized.shape).astype(int) - resized).max() <= 1


def test_only_the_images_change():
    loader = Stored()
    found = [
        (batch.images.clone(), batch.labels.tolist(), batch.index.tolist(), batch.count)
        for batch in ShrinkingLoader(loader, 20).epoch(1, 1)
    ]
    expected = [shrink(batch.images, 20) for batch in Stored().epoch(1, 1)]
    assert all(torch.equal(images, other) for (images, *_), other in zip(found, expected, strict=True))
    assert [rest for _, *rest in found] == [[[1, 7], [2, -1], 1], [[2, 7], [4, -1], 1]]


def test_it_ends_the_loader_that_it_owns():
    loader = Stored()
    with ShrinkingLoader(loader, 20) as small:
        assert (small.steps, small.samples) == (loader.steps, loader.samples)
        next(small.epoch(0))
    assert loader.ended == ["epoch", "loader"]
