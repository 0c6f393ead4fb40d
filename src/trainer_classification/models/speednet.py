"""A small fast network of the airbench family.

After Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv 2404.00498, which stands on Page, "How to train
your ResNet" (2018): a frozen 2x2 convolution that whitens patches of the training images, then three groups of two 3x3
convolutions, each group at half the size. Convolutions start as the identity on their first channels (Zagoruyko and
Komodakis, "DiracNets", arXiv 1706.00388); norms have a bias alone and forget fast.

Theirs sees 32 px. Of larger images ours whitens larger patches that do not overlap, as a vision transformer's stem
takes them (Dosovitskiy et al., arXiv 2010.11929): about 32 x 32 of them, so that what follows costs about the same.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WHITENED = 5000 * 32 * 32  # pixels are enough
_PATCH = 2  # px
_PATCHES, _LARGEST = 32, 8  # patches along a side of a large image, as long as they are no larger than this, in px
_FORGET = 0.4  # share of a batch in a norm's running statistics: they follow weights that move fast
_NOISE = 5e-4  # added to the variance of each direction, or the faintest ones would be blown up


class SpeedNet(nn.Module):
    """Images to logits.

    Args:
        num_classes: logits, K.
        channels: of the images, 1 or 3.
        width: channels of the first group; the others have 2.5 and 6 times as many.
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
        """Normalised images, float [B, C, H, W] with H and W of 9 strides or more, to logits, float [B, K]."""
        x = self.groups(F.gelu(self.whiten(x)))
        return cast(Tensor, self.fc(x.amax((2, 3))))


class Group(nn.Module):
    """Convolution, 2x2 max pool, norm, GELU; convolution, norm, GELU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _convolution(inputs, outputs), _norm(outputs)
        self.conv2, self.norm2 = _convolution(outputs, outputs), _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H // 2, W // 2]."""
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """3x3, the identity on the first channels; the others random, as torch begins them."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.dirac_(layer.weight[:inputs].data)
    return layer


def _norm(channels: int) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(channels, momentum=_FORGET)
    layer.weight.requires_grad_(False)
    return layer


@torch.no_grad()
def whiten(model: SpeedNet, images: Tensor) -> None:
    """Set the first layer so that its outputs over patches of these images are uncorrelated, of variance one.

    The filters are the eigenvectors of the covariance of all patches, each over the root of its eigenvalue, and their
    opposites; so that after a GELU no direction is lost.

    Args:
        images: normalised, float [N, C, H, W].
    """
    (patch, _), (stride, _) = model.whiten.kernel_size, model.whiten.stride
    patches = images.unfold(2, patch, stride).unfold(3, patch, stride)
    patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)
    values, vectors = torch.linalg.eigh((patches.T @ patches).double() / len(patches))
    filters = (vectors / (values + _NOISE).sqrt()).T.view(-1, images.shape[1], patch, patch)
    model.whiten.weight.copy_(torch.cat([filters, -filters]))


def stride_for(image_size: int) -> int:
    """px from patch to patch: 1 below 64 px, then even numbers, with which all channels come in eights."""
    return max(1, min(_LARGEST, 2 * (image_size // (2 * _PATCHES))))


def least_side(image_size: int) -> int:
    """Side in px of the smallest images for a network for `image_size` px: 9 patches, which are halved three times."""
    return 9 * stride_for(image_size)


def build(num_classes: int, channels: int, image_size: int, width: int = 64) -> SpeedNet:
    """A network with fresh weights from torch's generator, in channels-last; `whiten` sets the first layer.

    Raises:
        ValueError: the images are too small, or the width is no multiple of 16.
    """
    if image_size < 18:
        raise ValueError(f"speednet is for images of 18 px and more, not of {image_size} px: use resnet-small.")
    if width % 16 or width <= 0:
        raise ValueError(
            f"width is {width}, but speednet needs a multiple of 16: then all its channels come in eights."
        )
    return cast(Any, SpeedNet(num_classes, channels, width, stride_for(image_size))).to(
        memory_format=torch.channels_last
    )
