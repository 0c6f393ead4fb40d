"""All networks by name; `python -m trainer_classification.models` prints the table of docs/models.md."""

from __future__ import annotations

from trainer_classification.models import resnet, speednet
from trainer_classification.models.counts import count_macs, count_parameters
from trainer_classification.models.resnet import ResNet
from trainer_classification.models.speednet import SpeedNet

NAMES = (*resnet.ARCHITECTURES, "speednet")


def build(name: str, num_classes: int, channels: int, image_size: int, width: int = 0) -> ResNet | SpeedNet:
    """A network with fresh weights from torch's generator, its convolutions in channels-last.

    Args:
        name: one of `NAMES`.
        num_classes: logits, K.
        channels: of the images, 1 or 3.
        image_size: side in px of the images.
        width: channels of the first stage of resnet-small and speednet; 0: 16 and 64. The others have their own.

    Raises:
        ValueError: an unknown name, or a size or width that the network cannot have.
    """
    if name not in NAMES:
        raise ValueError(f"There is no model {name!r}; there are: {', '.join(NAMES)}.")
    if name == "speednet":
        return speednet.build(num_classes, channels, image_size, width or 64)
    return resnet.build(name, num_classes, channels, image_size, width or 16)


def table(num_classes: int = 10, sizes: tuple[int, ...] = (28, 32, 64, 128, 224)) -> str:
    """Markdown: parameters and multiply-adds of each network for each size, 3 channels."""
    lines = [
        "| model | parameters (M), 28 / 224 px | " + " | ".join(f"{size} px" for size in sizes) + " |",
        "|---|---|" + "---|" * len(sizes),
    ]
    for name in NAMES:
        models = {size: build(name, num_classes, 3, size) for size in sizes}
        parameters = " / ".join(f"{count_parameters(models[size]) / 1e6:.3f}" for size in (sizes[0], sizes[-1]))
        macs = " | ".join(_readable(count_macs(models[size], 3, size)) for size in sizes)
        lines.append(f"| {name} | {parameters} | {macs} |")
    return "\n".join(lines)


def _readable(macs: int) -> str:
    return f"{macs / 1e9:.2f} G" if macs >= 1e9 else f"{macs / 1e6:.1f} M"
