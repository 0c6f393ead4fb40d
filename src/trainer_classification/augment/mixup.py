"""Mixup (Zhang et al., arXiv 1710.09412) and cutmix (Yun et al., arXiv 1905.04899) on the device, drawn in advance.

Neighbors in the batch are partners. The order of the samples is random, so the
partners are too. A rank's part of a global batch is contiguous, so the pairs are
the same for any number of ranks whose parts are even. Draws are pure functions of
(seed, step) for the global batch; each rank takes its rows of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer_classification.arrays import Float32
from trainer_classification.plan import Stream, random_stream


@dataclass(frozen=True)
class Targets:
    """The labels of a batch, two for each mixed image.

    Attributes:
        labels: int64 [B], of the images themselves.
        others: int64 [B], of their partners; None if nothing is mixed.
        share: float32 [B], fraction of each image that is its own; None if
            nothing is mixed.
    """

    labels: Tensor
    others: Tensor | None = None
    share: Tensor | None = None

    def loss(self, logits: Tensor, smoothing: float, class_weights: Tensor | None = None) -> Tensor:
        """Return the mean cross entropy, in which both labels count by their share of the image.

        The sum is divided by the number of images, not by that of their weights:
        parts of a batch, and the ranks, then add up to the whole batch's gradient.
        A weight is that of the label, for the smoothed part of the target too.

        Args:
            logits: float [B, K].
            smoothing: probability that is spread over the other classes.
            class_weights: float32 [K], of each label; None: all 1.
        """
        if self.others is None or self.share is None:
            if class_weights is None:
                return F.cross_entropy(logits, self.labels, label_smoothing=smoothing)
            return _measure_losses(logits, self.labels, smoothing, class_weights).mean()

        own = _measure_losses(logits, self.labels, smoothing, class_weights)
        other = _measure_losses(logits, self.others, smoothing, class_weights)

        return torch.lerp(other, own, self.share).mean()

    def chunk(self, parts: int) -> list[Targets]:
        """Split the rows as `Tensor.chunk` does."""
        if self.others is None or self.share is None:
            return [Targets(labels) for labels in self.labels.chunk(parts)]

        labels = self.labels.chunk(parts)
        others = self.others.chunk(parts)
        shares = self.share.chunk(parts)
        return [Targets(*rows) for rows in zip(labels, others, shares, strict=True)]


@dataclass(frozen=True)
class Mixing:
    """Mix neighbors of a batch.

    Attributes:
        seed: of the run.
        mixup: alpha of its beta distribution; 0 for no mixup.
        cutmix: alpha of its beta distribution; 0 for no cutmix. With both, each
            image draws which one it gets.
        rank: the rank whose rows of the global batch these are.
        world_size: number of ranks.
    """

    seed: int
    mixup: float = 0.0
    cutmix: float = 0.0
    rank: int = 0
    world_size: int = 1

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Targets]:
        """Mix the images of a batch.

        Args:
            images: normalized, float [B, C, H, W].
            labels: int64 [B].
            step: of the run, from 0.

        Returns:
            The mixed images, float [B, C, H, W], and their targets, on the
            images' device.
        """
        if not self.mixup and not self.cutmix:
            return images, Targets(labels)

        rows = len(labels)
        draws = torch.from_numpy(self.draws(step, rows)).to(images.device, non_blocking=True)

        # Rows 0 and 1 are partners, and 2 and 3, and so on. The last of an odd
        # number is its own partner.
        row = torch.arange(rows, device=images.device)
        partner = (row ^ 1).clamp(max=rows - 1)

        own = _own_share(draws, images.shape[-1])
        mixed = torch.lerp(images[partner], images, own)
        mixed = mixed.contiguous(memory_format=torch.channels_last)

        return mixed, Targets(labels, labels[partner], own.mean((1, 2, 3)))

    def draws(self, step: int, rows: int) -> Float32:
        """Draw how each image is mixed.

        Args:
            step: of the run, from 0.
            rows: batch size of this rank.

        Returns:
            float32 [rows, 5]: share of the own image in mixup, then x0, x1, y0,
            y1 of the partner's box as fractions. The share is 1 in a row that
            draws cutmix, and the box is empty in a row that draws mixup.
        """
        count = rows * self.world_size
        random = random_stream(self.seed, Stream.MIX, step)
        cutmix_probability = 0.5 if self.mixup and self.cutmix else float(self.cutmix > 0)
        is_cutmix = random.random(count) < cutmix_probability

        share = random.beta(self.mixup or 1, self.mixup or 1, count)
        box_share = 1 - random.beta(self.cutmix or 1, self.cutmix or 1, count)
        side = np.sqrt(box_share) * is_cutmix
        center = random.random((2, count))
        low = np.clip(center - side / 2, 0, 1)
        high = np.clip(center + side / 2, 0, 1)

        columns = [np.where(is_cutmix, 1, share), low[0], high[0], low[1], high[1]]
        first = self.rank * rows

        return np.stack(columns, 1)[first : first + rows].astype(np.float32)


def _measure_losses(
    logits: Tensor, labels: Tensor, smoothing: float, class_weights: Tensor | None
) -> Tensor:
    """Return the weighted cross entropy of each image, float32 [B]."""
    losses = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    return losses if class_weights is None else losses * class_weights[labels]


def _own_share(draws: Tensor, side: int) -> Tensor:
    """Return the share of the own image in each pixel, float32 [B, 1, H, W]."""
    position = (torch.arange(side, device=draws.device) + 0.5) / side
    share, x0, x1, y0, y1 = (column[:, None] for column in draws.unbind(1))
    inside_x = (position >= x0) & (position < x1)
    inside_y = (position >= y0) & (position < y1)
    inside = inside_y[:, None, :, None] & inside_x[:, None, None, :]
    return torch.where(inside, 0.0, share[:, None, None])
