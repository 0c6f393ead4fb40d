"""Residual networks (He, Zhang, Ren, Sun, "Deep residual learning for image recognition", arXiv 1512.03385).

ResNet-18/34/50 bear torchvision's parameter names, so that its weights load; ResNet-50 strides in the 3x3 convolution
as torchvision's does. `resnet-small` is the same with two blocks, for digits and the like. The last norm of each block
starts at zero (Goyal et al., arXiv 1706.02677): every block starts as the identity.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

SMALL_IMAGE = 64  # px: below it the stem neither strides nor pools, else too few pixels reach the last stages


@dataclass(frozen=True)
class Stem:
    """The first layers: a convolution, and in full ResNets a 3x3 max pool of stride 2.

    Attributes:
        padded: with zeros by half the kernel, which keeps the size but for the stride.
    """

    kernel: int
    stride: int
    pool: bool = False
    padded: bool = True


@dataclass(frozen=True)
class Architecture:
    """Shape of a residual network.

    Attributes:
        bottleneck: blocks of 1x1, 3x3, 1x1 convolutions with 4 times the channels out, instead of two 3x3.
        blocks: in each stage; the first block of every stage but the first has stride 2.
        widths: channels of each stage.
        stem: for images of `SMALL_IMAGE` px and up.
        small_stem: below.
    """

    bottleneck: bool
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    stem: Stem = Stem(7, 2, pool=True)
    small_stem: Stem = Stem(3, 1)


_WIDTHS = (64, 128, 256, 512)
_SMALL_STEM = Stem(5, 2, padded=False)
ARCHITECTURES = {
    # 5x5 with stride 2: a digit needs few pixels and strokes are wide, and all that follows costs a quarter. Without
    # padding, as the border of a digit is empty: 12 x 12 positions of 28 x 28 px, not 14 x 14, and no less accurate.
    "resnet-small": Architecture(False, (1, 1), (16, 32), _SMALL_STEM, _SMALL_STEM),
    "resnet18": Architecture(False, (2, 2, 2, 2), _WIDTHS),
    "resnet34": Architecture(False, (3, 4, 6, 3), _WIDTHS),
    "resnet50": Architecture(True, (3, 4, 6, 3), _WIDTHS),
}


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, padded: bool = True) -> nn.Conv2d:
    """A convolution without bias (a norm follows) that keeps the size, where padded, but for its stride."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 if padded else 0, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = convolution(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = convolution(width, width, 3), nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride)
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, width, H / stride, W / stride]."""
        y = self.bn1(self.conv1(x)).relu_()
        y = self.bn2(self.conv2(y))
        return y.add_(x if self.downsample is None else self.downsample(x)).relu_()


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut; four times the width out."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1, self.bn1 = convolution(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = convolution(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = convolution(width, outputs, 1), nn.BatchNorm2d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride)
        nn.init.zeros_(self.bn3.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, 4 width, H / stride, W / stride]."""
        y = self.bn1(self.conv1(x)).relu_()
        y = self.bn2(self.conv2(y)).relu_()
        y = self.bn3(self.conv3(y))
        return y.add_(x if self.downsample is None else self.downsample(x)).relu_()


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """What fits the shortcut to a block's output; None where it fits as it is."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """Images to logits.

    Args:
        architecture: its shape.
        stem: the first layers.
        num_classes: logits.
        channels: of the images, 1 or 3.
    """

    def __init__(self, architecture: Architecture, stem: Stem, num_classes: int, channels: int) -> None:
        super().__init__()
        block = Bottleneck if architecture.bottleneck else BasicBlock
        width = architecture.widths[0]
        self.conv1 = convolution(channels, width, stem.kernel, stem.stride, stem.padded)
        self.bn1 = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(3, 2, 1) if stem.pool else nn.Identity()
        self.stages: list[str] = []
        for stage, (blocks, outputs) in enumerate(zip(architecture.blocks, architecture.widths, strict=True), 1):
            self.stages.append(f"layer{stage}")
            self.add_module(self.stages[-1], _stage(block, width, outputs, blocks, stride=1 if stage == 1 else 2))
            width = outputs * block.expansion
        self.fc = nn.Linear(width, num_classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images, float [B, C, H, W], to logits, float [B, K]."""
        x = self.pool(self.bn1(self.conv1(x)).relu_())
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.fc(x.mean((2, 3)))


def _stage(
    block: type[BasicBlock] | type[Bottleneck], inputs: int, width: int, blocks: int, stride: int
) -> nn.Sequential:
    following = (block(width * block.expansion, width, 1) for _ in range(blocks - 1))
    return nn.Sequential(block(inputs, width, stride), *following)


def _initialise(model: nn.Module) -> None:
    """Convolutions as He et al. (arXiv 1502.01852) for the backward pass; norms keep what their block set."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def build(name: str, num_classes: int, channels: int, image_size: int, width: int = 16) -> ResNet:
    """A network with fresh weights from torch's generator, its convolutions in channels-last.

    Args:
        name: "resnet-small", "resnet18", "resnet34" or "resnet50".
        num_classes: logits, K.
        channels: of the images, 1 or 3.
        image_size: side in px of the images; decides the stem.
        width: channels of the first stage of resnet-small, a multiple of 8; the others have their own.

    Raises:
        ValueError: a width that is no multiple of 8.
    """
    if width % 8 or width <= 0:
        raise ValueError(f"width is {width}, but must be a multiple of 8: the kernels of GPUs and CPUs work in eights.")
    architecture = ARCHITECTURES[name]
    if name == "resnet-small":
        architecture = replace(architecture, widths=(width, 2 * width))
    stem = architecture.small_stem if image_size < SMALL_IMAGE else architecture.stem
    model = ResNet(architecture, stem, num_classes, channels)
    return cast(Any, model).to(memory_format=torch.channels_last)  # torch's types do not know this form
