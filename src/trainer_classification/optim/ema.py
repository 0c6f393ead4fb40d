"""Average the weights of a model over the steps, exponentially.

The running statistics of norms are averaged with the same decay, because they
belong to the weights that produced them. Their counts of batches are copied.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def decay_at(step: int, decay: float) -> float:
    """Return the decay of the update after a step (0 for the first).

    It starts below the final decay, so that the average forgets the initial
    weights early.
    """
    return min(decay, (1 + step) / (10 + step))


class ModelEma:
    """Keep the exponential moving average of a model, as a copy in evaluation mode.

    Args:
        model: the model to average.
        decay: fraction of the old average that an update keeps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self._averaged = _pair_tensors(self.model, model, floating=True)
        self._counters = _pair_tensors(self.model, model, floating=False)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the model, without waiting for the device."""
        torch._foreach_lerp_(*self._averaged, 1 - decay_at(step, self.decay))
        if self._counters[0]:
            torch._foreach_copy_(*self._counters)


def _pair_tensors(
    average: nn.Module, model: nn.Module, floating: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the tensors of the average and those of the model, in the same order."""
    targets = average.state_dict(keep_vars=True)
    sources = model.state_dict(keep_vars=True)
    names = [name for name, tensor in sources.items() if tensor.is_floating_point() == floating]
    return [targets[name] for name in names], [sources[name] for name in names]
