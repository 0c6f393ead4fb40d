"""Rewrite the first layers of a ResNet for readers that normalize by the mean and standard deviation of ImageNet.

The reader of Hafnia's trainer (`trainer-classification`, 459bafb) builds
torchvision's ResNet by its name, leaves out tensors of another shape without an
error, and always normalizes so. A network that it would get wrong needs a name
that it refuses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer_classification.checkpoint.meta import CheckpointMeta
from trainer_classification.models.normalize import SMALLEST_STD
from trainer_classification.models.resnet import SMALL_IMAGE

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

NETWORKS = ("resnet18", "resnet34", "resnet50")
_WEIGHT = "conv1.weight"
_RUNNING_MEAN = "bn1.running_mean"
# The zeros around an image are the reader's mean, and no rewriting makes them the
# dataset's. So the two may differ by this many standard deviations at most.
_LARGEST_OFFSET = 0.25


def is_readable(meta: CheckpointMeta) -> bool:
    """Return True if `rewrite_stem` makes the network right for such readers, up to the border of the image."""
    # They take the upper 8 of 16 bits, or fewer.
    sees_same_values = meta.gray_shift == CheckpointMeta.gray_shift
    has_their_stem = meta.network in NETWORKS and meta.image_size >= SMALL_IMAGE
    offset = _scale_and_offset(meta)[1]
    return sees_same_values and has_their_stem and float(offset.abs().max()) <= _LARGEST_OFFSET


def rewrite_stem(
    tensors: dict[str, Tensor], meta: CheckpointMeta
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Fold the difference of the two normalizations into the first convolution and its norm.

    A network for gray images gets three input channels, and sees their mean.

    Args:
        tensors: state dict of a network for which `is_readable`.
        meta: describes it.

    Returns:
        (rewritten, original): the whole state dict for other readers, and the
        tensors that differ, as they were.
    """
    scale, offset = _scale_and_offset(meta)
    weight = tensors[_WEIGHT].double()
    shift = (weight.sum((2, 3)) * offset).sum(1)
    if weight.shape[1] == 1:
        weight = weight.expand(-1, 3, -1, -1) / 3

    original = {name: tensors[name] for name in (_WEIGHT, _RUNNING_MEAN)}
    rewritten = {
        _WEIGHT: (weight * scale[:, None, None]).to(original[_WEIGHT].dtype),
        _RUNNING_MEAN: (original[_RUNNING_MEAN].double() - shift).to(original[_RUNNING_MEAN].dtype),
    }

    return tensors | rewritten, original


def _scale_and_offset(meta: CheckpointMeta) -> tuple[Tensor, Tensor]:
    """Return what turns the reader's input into ours: float64 [3] and [C]."""
    their_mean = torch.tensor(IMAGENET_MEAN, dtype=torch.float64)
    their_std = torch.tensor(IMAGENET_STD, dtype=torch.float64)
    mean = torch.tensor(meta.mean, dtype=torch.float64)
    std = torch.tensor(meta.std, dtype=torch.float64).clamp(min=SMALLEST_STD)
    if len(mean) == 1:
        their_mean = their_mean.mean(0, keepdim=True)
    return their_std / std, (their_mean - mean) / std
