"""Parameters and multiply-adds of a network, counted where it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def count_parameters(model: nn.Module) -> int:
    """Trained numbers; the running statistics of norms are not among them."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, channels: int, image_size: int) -> int:
    """Multiply-adds of one image through the convolutions and linear layers, forward only."""
    device = next(model.parameters()).device
    with _hooked(model) as counts, torch.inference_mode():
        training = model.training
        model.eval()(torch.zeros(1, channels, image_size, image_size, device=device))
        model.train(training)
    return sum(counts)


@contextmanager
def _hooked(model: nn.Module) -> Iterator[list[int]]:
    """A list that gets the multiply-adds of each layer that runs."""
    counts: list[int] = []

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            positions = output[0, 0].numel() if isinstance(module, nn.Conv2d) else 1
            counts.append(module.weight.numel() * positions)

    handles = [module.register_forward_hook(count) for module in model.modules()]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()
