"""Muon: momentum whose matrices are made orthogonal before a step (Jordan et al., "Muon: an optimizer for hidden
layers in neural networks", 2024), as the airbench records use it for the filters of convolutions.

A gradient of a filter bank, as a matrix [outputs, inputs * kernel], has a few large singular values; an orthogonal
update moves all directions alike. `torch.optim.Muon` takes matrices alone, so this is our own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

# A quintic that lifts small singular values steeply: after three rounds most are within 0.5 and 1.5, which trains as
# well as all at one would, and costs less.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ROUNDS = 3
# Rates as multiples of that of the filters, for a loss that is a mean. Norms have no scales, so their biases
# set how much of each channel passes the GELU, and take steps 400 times as large.
_BIAS_RATE, _HEAD_RATE = 440.0, 0.085
_BIAS_MOMENTUM = 0.85


def orthogonalise(matrix: Tensor, rounds: int = _ROUNDS) -> Tensor:
    """About the nearest orthogonal matrix, U V^T of the singular value decomposition U S V^T, by Newton-Schulz rounds.

    Args:
        matrix: float [m, n].
        rounds: of the quintic; more bring the small singular values up too.
    """
    a, b, c = _QUINTIC
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)  # the largest singular value is below one
    for _ in range(rounds):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def parameter_groups(model: nn.Module, momentum: float, weight_decay: float) -> list[dict[str, Any]]:
    """Filters, which are made orthogonal and keep their norm; biases and head, which take SGD steps and decay alike."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    filters, heads, biases = ([p for p in trained if p.ndim in dims] for dims in ((4,), (2,), (0, 1)))
    return [
        {"params": filters, "rate": 1.0, "orthogonal": True, "momentum": momentum, "weight_decay": 0.0},
        *(
            {
                "params": parameters,
                "rate": rate,
                "orthogonal": False,
                "momentum": _BIAS_MOMENTUM,
                "weight_decay": weight_decay / rate,
            }
            for parameters, rate in ((heads, _HEAD_RATE), (biases, _BIAS_RATE))
        ),
    ]


class Muon(Optimizer):
    """Orthogonal steps for filters, SGD with Nesterov momentum for the rest.

    A filter bank is scaled to a norm of the root of its outputs before each step: the norms behind make its scale
    meaningless, and so the rate alone says how far a step turns it.

    With GradScaler it unscales and skips by itself, without waiting for the device.

    Args:
        groups: as of `parameter_groups`; a group's "rate" is a multiple of the learning rate.
        lr: learning rate of the filters.
    """

    _step_supports_amp_scaling = True  # GradScaler then hands over `grad_scale` and `found_inf` and reads nothing

    def __init__(self, groups: list[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step; none where the scaled gradients overflowed."""
        scale: Tensor | None = getattr(self, "grad_scale", None)
        overflow: Tensor | None = getattr(self, "found_inf", None)
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            buffers = [self._buffer(parameter) for parameter in parameters]
            changed = parameters + buffers
            before = [] if overflow is None else [tensor.clone() for tensor in changed]
            grads = [p.grad if scale is None else p.grad / scale for p in parameters]
            _move(parameters, grads, buffers, group)
            if overflow is not None:
                for tensor, old in zip(changed, before, strict=True):
                    tensor.copy_(torch.where(overflow > 0, old, tensor))

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


def _move(parameters: list[Tensor], grads: list[Tensor], buffers: list[Tensor], group: dict[str, Any]) -> None:
    """One step of a group, in place."""
    momentum = group["momentum"]
    grads = list(torch._foreach_add(grads, parameters, alpha=group["weight_decay"]))
    torch._foreach_mul_(buffers, momentum)
    torch._foreach_add_(buffers, grads)
    torch._foreach_add_(grads, buffers, alpha=momentum)  # Nesterov
    if group["orthogonal"]:
        for parameter in parameters:
            parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
        grads = [orthogonalise(grad.flatten(1)).view(grad.shape) for grad in grads]
    rate = group["lr"]
    if isinstance(rate, Tensor):  # of a recorded step
        torch._foreach_add_(parameters, torch._foreach_mul(grads, -rate))
    else:
        torch._foreach_add_(parameters, grads, alpha=-rate)
