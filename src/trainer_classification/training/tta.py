"""Test-time augmentation: the mean of the logits over several views of an image.

The views of "flip-translate" are those of Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU" (arXiv 2404.00498):
the image with weight 1/2, and with 1/4 each the image moved by one pixel up and left, and down and right, at the edges
reflected; each with its mirror image.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from trainer_classification.plan import Policy

Views = Literal["none", "flip", "flip-translate"]


def check_views(views: Views, policy: Policy) -> None:
    """Raise ValueError where a mirror image is something else than what the network has learnt."""
    if views != "none" and policy.flip == "none":
        raise ValueError(f"--tta {views} mirrors the images, but the training did not (--flip none): leave it away.")


def logits_over(model: nn.Module, images: Tensor, views: Views) -> Tensor:
    """Logits [B, K] of normalised images [B, C, H, W], the mean over the views."""
    if views == "none":
        return model(images)
    straight = _mirrored(model, images)
    if views == "flip":
        return straight
    side = images.shape[-1]
    padded = F.pad(images, (1, 1, 1, 1), "reflect")
    moved = [_mirrored(model, padded[:, :, at : at + side, at : at + side]) for at in (0, 2)]
    return 0.5 * straight + 0.25 * (moved[0] + moved[1])


def _mirrored(model: nn.Module, images: Tensor) -> Tensor:
    return 0.5 * (model(images) + model(images.flip(3)))
