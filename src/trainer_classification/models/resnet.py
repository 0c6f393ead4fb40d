"""Residual networks (He, Zhang, Ren, Sun, "Deep residual learning for image recognition", arXiv 1512.03385).

ResNet-18/34/50 have torchvision's parameter names, so that its weights load. As
in torchvision, ResNet-50 has its strides in the 3x3 convolutions. `resnet-small`
has the same blocks, but only two of them; it is meant for digits and the like.
`resnet-digits` is the same without the border of the images.
The last norm of each block starts at zero (Goyal et al., arXiv 1706.02677), so
every block starts as the identity.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

# Side in px. Below it the stem neither strides nor pools, or too few pixels would
# be left for the last stages.
SMALL_IMAGE = 64


@dataclass(frozen=True)
class Stem:
    """The first layers: a convolution, and in full ResNets a 3x3 max pool of stride 2.

    Attributes:
        kernel: side of the convolution in px.
        stride: of the convolution.
        pool: True if the max pool follows.
        padded: True if half a kernel of zeros is added, so that only the stride
            changes the size.
        border: px at each edge of the images that it does not look at.
    """

    kernel: int
    stride: int
    pool: bool = False
    padded: bool = True
    border: int = 0


@dataclass(frozen=True)
class Architecture:
    """Shape of a residual network.

    Attributes:
        bottleneck: True for blocks of 1x1, 3x3 and 1x1 convolutions with 4 times
            the channels out, False for blocks of two 3x3 convolutions.
        blocks: number of blocks in each stage. The first block of every stage but
            the first has stride 2.
        widths: channels of each stage.
        stem: for images of `SMALL_IMAGE` px and more.
        small_stem: for smaller images.
    """

    bottleneck: bool
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    stem: Stem = Stem(7, 2, pool=True)
    small_stem: Stem = Stem(3, 1)


_WIDTHS = (64, 128, 256, 512)

# Strokes of digits are wide, so a stride of 2 loses little, and all later layers
# cost a quarter. The border of a digit is empty, so no padding is needed: 28 x 28
# px become 12 x 12 positions instead of 14 x 14, at the same accuracy.
_SMALL_NETWORK_STEM = Stem(5, 2, padded=False)

# A digit of MNIST lies in 20 x 20 of 28 x 28 px, so that 24 x 24 hold it where it is
# shifted by 2 px: 10 x 10 positions, and two thirds of the work.
_DIGIT_STEM = Stem(5, 2, padded=False, border=2)

ARCHITECTURES = {
    "resnet-small": Architecture(False, (1, 1), (16, 32), _SMALL_NETWORK_STEM, _SMALL_NETWORK_STEM),
    "resnet-digits": Architecture(False, (1, 1), (16, 32), _DIGIT_STEM, _DIGIT_STEM),
    "resnet18": Architecture(False, (2, 2, 2, 2), _WIDTHS),
    "resnet34": Architecture(False, (3, 4, 6, 3), _WIDTHS),
    "resnet50": Architecture(True, (3, 4, 6, 3), _WIDTHS),
}


def convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, padded: bool = True
) -> nn.Conv2d:
    """Return a convolution without bias, as a norm follows it.

    If padded, only its stride changes the size.
    """
    padding = kernel // 2 if padded else 0
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _build_shortcut(inputs, width, stride)

        nn.init.zeros_(self.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, width, H / stride, W / stride]."""
        y = self.bn1(self.conv1(x)).relu_()
        y = self.bn2(self.conv2(y))
        shortcut = x if self.downsample is None else self.downsample(x)
        return y.add_(shortcut).relu_()


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut around them, with four times the width out."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = convolution(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = convolution(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = _build_shortcut(inputs, outputs, stride)

        nn.init.zeros_(self.bn3.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, 4 width, H / stride, W / stride]."""
        y = self.bn1(self.conv1(x)).relu_()
        y = self.bn2(self.conv2(y)).relu_()
        y = self.bn3(self.conv3(y))
        shortcut = x if self.downsample is None else self.downsample(x)
        return y.add_(shortcut).relu_()


def _build_shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """Return layers that bring the shortcut to the shape of a block's output, or None if it has that shape."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """A residual network.

    Args:
        architecture: shape of the stages.
        stem: the first layers.
        num_classes: number of logits, K.
        channels: of the images, 1 or 3.
    """

    def __init__(
        self, architecture: Architecture, stem: Stem, num_classes: int, channels: int
    ) -> None:
        super().__init__()
        block = Bottleneck if architecture.bottleneck else BasicBlock
        width = architecture.widths[0]

        self.border = stem.border
        self.conv1 = convolution(channels, width, stem.kernel, stem.stride, stem.padded)
        self.bn1 = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(3, 2, 1) if stem.pool else nn.Identity()

        self.stages: list[str] = []
        shapes = zip(architecture.blocks, architecture.widths, strict=True)
        for number, (blocks, outputs) in enumerate(shapes, 1):
            name = f"layer{number}"
            stride = 1 if number == 1 else 2
            self.add_module(name, _build_stage(block, width, outputs, blocks, stride))
            self.stages.append(name)
            width = outputs * block.expansion

        self.fc = nn.Linear(width, num_classes)
        _initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalized images, float [B, C, H, W], to logits, float [B, K]."""
        if self.border:
            x = x[..., self.border : -self.border, self.border : -self.border]
        x = self.pool(self.bn1(self.conv1(x)).relu_())
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.fc(x.mean((2, 3)))


def _build_stage(
    block: type[BasicBlock] | type[Bottleneck], inputs: int, width: int, blocks: int, stride: int
) -> nn.Sequential:
    first = block(inputs, width, stride)
    others = [block(width * block.expansion, width, 1) for _ in range(blocks - 1)]
    return nn.Sequential(first, *others)


def _initialize(model: nn.Module) -> None:
    """Draw convolutions as He et al.

    (arXiv 1502.01852) for the backward pass. Norms keep what their block set.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def build(name: str, num_classes: int, channels: int, image_size: int, width: int = 0) -> ResNet:
    """Return a network with new weights from torch's generator, its convolutions in channels-last.

    Args:
        name: "resnet-small", "resnet-digits", "resnet18", "resnet34" or "resnet50".
        num_classes: number of logits, K.
        channels: of the images, 1 or 3.
        image_size: side in px of the images, by which the stem is chosen.
        width: channels of the first stage of resnet-small and resnet-digits, a
            multiple of 8; 0 for 16. The others ignore it.

    Raises:
        ValueError: the width is not a multiple of 8.
    """
    if width % 8 or width < 0:
        raise ValueError(
            f"width is {width}, but must be a multiple of 8: the kernels of GPUs and CPUs work in eights."
        )

    architecture = ARCHITECTURES[name]
    if len(architecture.widths) == 2 and width > 0:
        architecture = replace(architecture, widths=(width, 2 * width))

    stem = architecture.small_stem if image_size < SMALL_IMAGE else architecture.stem
    model = ResNet(architecture, stem, num_classes, channels)

    return cast(Any, model).to(memory_format=torch.channels_last)  # missing in torch's type stubs
