"""Muon: SGD with momentum, whose updates of matrices are made orthogonal.

After Jordan et al., "Muon: an optimizer for hidden layers in neural networks",
2024, as the airbench records use it for the filters of convolutions. The gradient
of a filter bank, as a matrix [outputs, inputs * kernel], has a few large singular
values; an orthogonal update moves all directions by the same amount.
`torch.optim.Muon` takes only matrices, hence this implementation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainer_classification.optim.unguarded import Optimizer

# Coefficients of x, x^3 and x^5. This quintic lifts small singular values
# steeply. After three rounds most are between 0.5 and 1.5, which trains as well
# as exact ones, and costs less.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ROUNDS = 3

# Learning rates as multiples of that of the filters, for a loss that is a mean.
# Norms have no scales, so their biases decide how much of each channel passes the
# GELU, and take steps 440 times as large.
_BIAS_RATE = 440.0
_HEAD_RATE = 0.085
_BIAS_MOMENTUM = 0.85  # also of the head


def orthogonalize(
    matrix: Tensor, rounds: int = _ROUNDS, dtype: torch.dtype | None = None
) -> Tensor:
    """Approximate the nearest orthogonal matrix by Newton-Schulz iterations.

    That matrix is U V^T of the singular value decomposition U S V^T.

    Args:
        matrix: float [m, n].
        rounds: number of iterations; more of them also bring the smallest
            singular values near one.
        dtype: of the products; None: that of the matrix. bf16 is exact enough:
            singular values end between 0.5 and 1.5 in any case.

    Returns:
        float [m, n], of the matrix's dtype.
    """
    a, b, c = _QUINTIC
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / (x.norm() + 1e-7)  # now the largest singular value is below one
    x = x.to(dtype or x.dtype)
    for _ in range(rounds):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x

    x = x.to(matrix.dtype)
    return x.T if is_tall else x


def parameter_groups(
    model: nn.Module, momentum: float, weight_decay: float, stem: Tensor | None = None
) -> list[dict[str, Any]]:
    """Return the groups of filters, of heads, and of biases.

    Filters get orthogonal updates and keep their norm. Heads and biases get SGD
    updates with one effective decay.

    Args:
        model: to train.
        momentum: of the filters.
        weight_decay: of heads and biases.
        stem: a bias that gets a group of its own, marked with "is_stem"; None: none.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    filters = [parameter for parameter in trained if parameter.ndim == 4]
    heads = [parameter for parameter in trained if parameter.ndim == 2]
    biases = [parameter for parameter in trained if parameter.ndim in (0, 1)]
    stems = [parameter for parameter in biases if parameter is stem]

    filter_group = {
        "params": filters,
        "rate": 1.0,
        "orthogonal": True,
        "momentum": momentum,
        "weight_decay": 0.0,
    }

    groups = [
        filter_group,
        _sgd_group(heads, _HEAD_RATE, weight_decay),
        _sgd_group([bias for bias in biases if bias is not stem], _BIAS_RATE, weight_decay),
    ]
    if stems:
        groups.append(_sgd_group(stems, _BIAS_RATE, weight_decay) | {"is_stem": True})
    return groups


def _sgd_group(parameters: list[nn.Parameter], rate: float, weight_decay: float) -> dict[str, Any]:
    return {
        "params": parameters,
        "rate": rate,
        "orthogonal": False,
        "momentum": _BIAS_MOMENTUM,
        "weight_decay": weight_decay / rate,  # the step multiplies by the rate again
    }


class Muon(Optimizer):
    """Update filters by orthogonal steps, and all else by SGD with Nesterov momentum.

    Before each step a filter bank is scaled so that its norm is the square root
    of its number of outputs. The norms that follow make its scale meaningless, so
    only the learning rate decides how far a step turns it.

    With GradScaler, the optimizer itself unscales the gradients and skips a step
    that overflowed. It does not wait for the device.

    Args:
        groups: from `parameter_groups`; the "rate" of a group is a multiple of
            the learning rate.
        lr: learning rate of the filters.
        dtype: of the products that make updates orthogonal; None: fp32.
    """

    # GradScaler then sets `grad_scale` and `found_inf` and reads nothing from the
    # device.
    _step_supports_amp_scaling = True

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(groups, {"lr": lr})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the parameters, unless scaled gradients overflowed."""
        scale: Tensor | None = getattr(self, "grad_scale", None)
        overflow: Tensor | None = getattr(self, "found_inf", None)
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue

            buffers = [self._momentum_buffer(parameter) for parameter in parameters]
            grads = [parameter.grad for parameter in parameters]
            if scale is not None:
                grads = [grad / scale for grad in grads]

            changed = parameters + buffers
            previous = [] if overflow is None else [tensor.clone() for tensor in changed]
            _update_group(parameters, grads, buffers, group, self._dtype)

            # Undo the update of a step that overflowed. Branching on `overflow`
            # would wait for the device.
            if overflow is not None:
                for tensor, old in zip(changed, previous, strict=True):
                    tensor.copy_(torch.where(overflow > 0, old, tensor))

    def _momentum_buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


def _update_group(
    parameters: list[Tensor],
    grads: list[Tensor],
    buffers: list[Tensor],
    group: dict[str, Any],
    dtype: torch.dtype | None,
) -> None:
    """Update the parameters and the momentum buffers of a group in place."""
    momentum = group["momentum"]
    grads = list(torch._foreach_add(grads, parameters, alpha=group["weight_decay"]))
    torch._foreach_mul_(buffers, momentum)
    torch._foreach_add_(buffers, grads)
    torch._foreach_add_(grads, buffers, alpha=momentum)  # Nesterov

    if group["orthogonal"]:
        for parameter in parameters:
            parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
        grads = [orthogonalize(grad.flatten(1), dtype=dtype).view(grad.shape) for grad in grads]

    rate = group["lr"]
    if isinstance(rate, Tensor):  # in a recorded step
        torch._foreach_add_(parameters, torch._foreach_mul(grads, -rate))
    else:
        torch._foreach_add_(parameters, grads, alpha=-rate)
