"""Mixup (Zhang et al., arXiv 1710.09412) and cutmix (Yun et al., arXiv 1905.04899) on the device, drawn in advance.

Neighbours in the batch are partners: the order is random, so the partner is, and as a rank's share of a global batch is
contiguous, the pairs are the same for any number of ranks whose shares are even. Draws are pure functions of (seed,
step), of the global batch, of which a rank takes its rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer_classification.plan import Stream, random_stream


@dataclass(frozen=True)
class Targets:
    """What the rows of a batch show.

    Attributes:
        labels: int64 [B].
        others: int64 [B], labels of the partners; None where nothing is mixed.
        share: float32 [B], how much of an image is its own.
    """

    labels: Tensor
    others: Tensor | None = None
    share: Tensor | None = None

    def loss(self, logits: Tensor, smoothing: float) -> Tensor:
        """Mean cross entropy with both labels, each by its share of the image."""
        if self.others is None or self.share is None:
            return F.cross_entropy(logits, self.labels, label_smoothing=smoothing)
        own, other = (
            F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
            for labels in (self.labels, self.others)
        )
        return torch.lerp(other, own, self.share).mean()

    def chunk(self, parts: int) -> list[Targets]:
        """As `Tensor.chunk`."""
        if self.others is None or self.share is None:
            return [Targets(labels) for labels in self.labels.chunk(parts)]
        tensors = (self.labels, self.others, self.share)
        return [Targets(*rows) for rows in zip(*(tensor.chunk(parts) for tensor in tensors), strict=True)]


@dataclass(frozen=True)
class Mixing:
    """Blends neighbours of a batch.

    Attributes:
        seed: of the run.
        mixup, cutmix: alphas of the beta distributions; 0: not this one. With both, each image draws which.
        rank: whose rows of the global batch these are.
        world_size: number of ranks.
    """

    seed: int
    mixup: float = 0.0
    cutmix: float = 0.0
    rank: int = 0
    world_size: int = 1

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Targets]:
        """Mixed images, float [B, C, H, W], and their targets, on the images' device.

        Args:
            images: normalised, float [B, C, H, W].
            labels: int64 [B].
            step: of the run, from 0.
        """
        if not self.mixup and not self.cutmix:
            return images, Targets(labels)
        rows, side = len(labels), images.shape[-1]
        drawn = torch.from_numpy(self.draws(step, rows)).to(images.device, non_blocking=True)
        at = torch.arange(rows, device=images.device)
        partner = (at ^ 1).clamp(max=rows - 1)  # the last of an odd number keeps to itself
        own = _own_pixels(drawn, side)
        mixed = torch.lerp(images[partner], images, own).contiguous(memory_format=torch.channels_last)
        return mixed, Targets(labels, labels[partner], own.mean((1, 2, 3)))

    def draws(self, step: int, rows: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        """float32 [rows, 5]: share of the own image in mixup, and x0, x1, y0, y1 of the partner's box, in 0 to 1.

        A row that draws cutmix has share 1; one that draws mixup has an empty box.
        """
        count = rows * self.world_size
        random = random_stream(self.seed, Stream.MIX, step)
        pastes = random.random(count) < (0.5 if self.mixup and self.cutmix else float(self.cutmix > 0))
        blend = random.beta(self.mixup or 1, self.mixup or 1, count)
        length = np.sqrt(1 - random.beta(self.cutmix or 1, self.cutmix or 1, count)) * pastes
        centre = random.random((2, count))
        low, high = np.clip(centre - length / 2, 0, 1), np.clip(centre + length / 2, 0, 1)
        drawn = np.stack([np.where(pastes, 1, blend), low[0], high[0], low[1], high[1]], 1)
        return drawn[self.rank * rows : (self.rank + 1) * rows].astype(np.float32)


def _own_pixels(drawn: Tensor, side: int) -> Tensor:
    """Share of the own image in each pixel, float32 [B, 1, H, W]."""
    at = (torch.arange(side, device=drawn.device) + 0.5) / side
    share, x0, x1, y0, y1 = (column[:, None] for column in drawn.unbind(1))
    across, down = (at >= x0) & (at < x1), (at >= y0) & (at < y1)
    pasted = down[:, None, :, None] & across[:, None, None, :]
    return torch.where(pasted, 0.0, share[:, None, None])
