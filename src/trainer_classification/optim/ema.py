"""Averaged weights: an exponential moving average of everything a model has learnt.

The running statistics of norms are averaged with the same decay, as they belong to the weights that made them; their
count of batches is copied.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def decay_at(step: int, decay: float) -> float:
    """Decay of the update after a step (0 for the first): below the final one at first, or the start would linger."""
    return min(decay, (1 + step) / (10 + step))


class ModelEma:
    """A copy of the model, in evaluation mode, that follows it.

    Args:
        model: to follow.
        decay: share of the old average that an update keeps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self._pairs = _pairs(self.model, model, floating=True)
        self._counters = _pairs(self.model, model, floating=False)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the model; does not wait for the device."""
        torch._foreach_lerp_(*self._pairs, 1 - decay_at(step, self.decay))
        if self._counters[0]:
            torch._foreach_copy_(*self._counters)


def _pairs(average: nn.Module, model: nn.Module, floating: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Tensors of the average and of the model, one to one."""
    theirs, ours = model.state_dict(keep_vars=True), average.state_dict(keep_vars=True)
    names = [name for name, tensor in theirs.items() if tensor.is_floating_point() == floating]
    return [ours[name] for name in names], [theirs[name] for name in names]
