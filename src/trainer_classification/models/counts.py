"""Count the parameters and multiply-adds of a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, without the running statistics of norms."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, channels: int, image_size: int) -> int:
    """Return the multiply-adds of one image's forward pass through convolutions and linear layers.

    Args:
        model: on any device; it runs once, in evaluation mode.
        channels: of the image.
        image_size: side in px of the image.
    """
    device = next(model.parameters()).device
    image = torch.zeros(1, channels, image_size, image_size, device=device)
    training = model.training

    with _record_macs(model) as counts, torch.inference_mode():
        model.eval()(image)

    model.train(training)

    return sum(counts)


@contextmanager
def _record_macs(model: nn.Module) -> Iterator[list[int]]:
    """Yield a list to which each layer that runs appends its multiply-adds."""
    counts: list[int] = []

    def record(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            positions = output[0, 0].numel() if isinstance(module, nn.Conv2d) else 1
            counts.append(module.weight.numel() * positions)

    handles = [module.register_forward_hook(record) for module in model.modules()]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()
