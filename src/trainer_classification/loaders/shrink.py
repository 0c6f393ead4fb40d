"""Deliver the batches of a loader at a smaller side, for images that no crop can make smaller."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer_classification.loaders.base import Batch, Loader


class ShrinkingLoader(Loader):
    """Resize the batches of another loader, which it owns.

    Args:
        loader: whose images are larger.
        side: of the images to deliver, in px.
    """

    def __init__(self, loader: Loader, side: int) -> None:
        super().__init__(loader.schedule)
        self._loader = loader
        self._side = side

    def _batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        for batch in self._loader.epoch(epoch, start_step):
            yield Batch(shrink(batch.images, self._side), batch.labels, batch.index, batch.count)

    def close(self) -> None:
        """Close the other loader."""
        self._end_epoch()
        self._loader.close()


@torch.no_grad()
def shrink(images: Tensor, side: int) -> Tensor:
    """Resize a batch by an antialiased triangle, the filter of resized crops.

    Args:
        images: uint8 [B, S, S, C].
        side: T in px, at most S.

    Returns:
        uint8 [B, T, T, C], contiguous.
    """
    pixels = images.permute(0, 3, 1, 2).float()
    resized = F.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
    return resized.round_().permute(0, 2, 3, 1).to(torch.uint8).contiguous()
