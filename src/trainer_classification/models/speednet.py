"""A small fast network of the airbench family.

It follows Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv
2404.00498, which builds on Page, "How to train your ResNet" (2018). A frozen 2x2
convolution whitens patches of the training images. Three groups of two 3x3
convolutions follow, each at half the size of the one before. Convolutions start
as the identity on their first channels (Zagoruyko and Komodakis, "DiracNets",
arXiv 1706.00388). Norms have only a bias, and short running averages.

Airbench's network sees 32 px. For larger images ours whitens larger patches that
do not overlap, as the stem of a vision transformer does (Dosovitskiy et al.,
arXiv 2010.11929). There are about 32 x 32 of them, so that the later layers cost
about the same.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WHITENED = 5000 * 32 * 32  # pixels that are enough to estimate the covariance of patches

_PATCH = 2  # px
_PATCHES = 32  # patches along a side of a large image
_LARGEST_PATCH = 8  # px; above it there are more patches instead
_BATCH_SHARE = (
    0.4  # share of a batch in a norm's running statistics: they follow weights that change quickly
)
_NOISE = 5e-4  # added to the variance of each direction, so that the weakest ones are not blown up


class SpeedNet(nn.Module):
    """A whitening convolution, three groups of convolutions, and a head.

    Args:
        num_classes: number of logits, K.
        channels: of the images, 1 or 3.
        width: channels of the first group; the others have 2.5 and 6 times as
            many.
        stride: px from one whitened patch to the next.
    """

    def __init__(self, num_classes: int, channels: int, width: int = 64, stride: int = 1) -> None:
        super().__init__()
        widths = (width, width * 5 // 2, width * 6)
        patch = max(_PATCH, stride)
        whitened = 2 * channels * patch**2  # each direction and its opposite

        self.whiten = nn.Conv2d(channels, whitened, patch, stride)
        self.whiten.weight.requires_grad_(False)
        nn.init.zeros_(cast(Tensor, self.whiten.bias))

        pairs = zip((whitened, *widths), widths, strict=False)
        self.groups = nn.Sequential(*(Group(inputs, outputs) for inputs, outputs in pairs))

        self.fc = nn.Linear(widths[-1], num_classes, bias=False)
        nn.init.normal_(self.fc.weight, std=1 / widths[-1])  # nearly equal logits at first

    def forward(self, x: Tensor) -> Tensor:
        """Map normalized images, float [B, C, H, W] with H and W of 9 strides or more, to logits, float [B, K]."""
        x = self.groups(F.gelu(self.whiten(x)))
        return cast(Tensor, self.fc(x.amax((2, 3))))


class Group(nn.Module):
    """Convolution, 2x2 max pool, norm, GELU; then convolution, norm, GELU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = _build_convolution(inputs, outputs)
        self.norm1 = _build_norm(outputs)
        self.conv2 = _build_convolution(outputs, outputs)
        self.norm2 = _build_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H // 2, W // 2]."""
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


def _build_convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """Return a 3x3 convolution that is the identity on its first channels; the others keep torch's random weights."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.dirac_(layer.weight[:inputs].data)
    return layer


def _build_norm(channels: int) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(channels, momentum=_BATCH_SHARE)
    layer.weight.requires_grad_(False)
    return layer


@torch.no_grad()
def whiten(model: SpeedNet, images: Tensor) -> None:
    """Set the first layer so that its outputs over patches of these images are uncorrelated and have variance one.

    The filters are the eigenvectors of the patches' covariance, each divided by
    the square root of its eigenvalue. Their opposites are filters too, so that no
    direction is lost in the GELU.

    Args:
        model: the network to change.
        images: normalized, float [N, C, H, W].
    """
    patch = model.whiten.kernel_size[0]
    stride = model.whiten.stride[0]
    patches = images.unfold(2, patch, stride).unfold(3, patch, stride)
    patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)

    covariance = (patches.T @ patches).double() / len(patches)
    values, vectors = torch.linalg.eigh(covariance)
    filters = (vectors / (values + _NOISE).sqrt()).T.view(-1, images.shape[1], patch, patch)
    model.whiten.weight.copy_(torch.cat([filters, -filters]))


def stride_for(image_size: int) -> int:
    """Return the px from one patch to the next: 1 below 64 px, then even numbers, which keep channels in eights."""
    return max(1, min(_LARGEST_PATCH, 2 * (image_size // (2 * _PATCHES))))


def least_side(image_size: int) -> int:
    """Return the side in px of the smallest images that a network for `image_size` px takes.

    It is nine patches, because the groups halve the size three times.
    """
    return 9 * stride_for(image_size)


def build(num_classes: int, channels: int, image_size: int, width: int = 0) -> SpeedNet:
    """Return a network with new weights from torch's generator, in channels-last; `whiten` sets its first layer.

    Args:
        num_classes: number of logits, K.
        channels: of the images, 1 or 3.
        image_size: side in px of the images, 18 or more.
        width: channels of the first group, a multiple of 16; 0 for 64.

    Raises:
        ValueError: the width is not a multiple of 16.
    """
    if width % 16 or width < 0:
        raise ValueError(
            f"width is {width}, but speednet needs a multiple of 16: then all its channels come in eights."
        )
    model = SpeedNet(num_classes, channels, width or 64, stride_for(image_size))

    return cast(Any, model).to(memory_format=torch.channels_last)  # missing in torch's type stubs
