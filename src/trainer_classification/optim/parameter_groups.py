"""Build the optimizer of a recipe, and set its learning rate.

SGD with Nesterov momentum and AdamW are fused, and decay only weights, not norms
and biases. Muon is in muon.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from trainer_classification.models.catalogue import NETWORKS
from trainer_classification.optim import muon
from trainer_classification.recipes import Recipe


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the group of weights, which decay, and the group of norms and biases, which do not.

    Decay of a norm's scale or of a bias would only change the effective learning
    rate (He et al., "Bag of tricks for image classification", arXiv 1812.01187).
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = [parameter for parameter in parameters if parameter.ndim > 1]
    norms_and_biases = [parameter for parameter in parameters if parameter.ndim <= 1]

    return [
        {"params": weights, "weight_decay": weight_decay},
        {"params": norms_and_biases, "weight_decay": 0.0},
    ]


def build_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """Return the recipe's optimizer for a model that is on its device already.

    Raises:
        ValueError: the optimizer is Muon, and the recipe's network cannot be
            trained by it.
    """
    if recipe.optimizer == "muon":
        return _build_muon(model, recipe)

    groups = parameter_groups(model, recipe.weight_decay)
    fused = next(model.parameters()).device.type in ("cpu", "cuda")  # one kernel for all tensors
    if recipe.optimizer == "adamw":
        betas = (recipe.momentum, 0.999)
        return AdamW(groups, lr=recipe.learning_rate, betas=betas, fused=fused)
    return SGD(
        groups,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        fused=fused,
    )


def _build_muon(model: nn.Module, recipe: Recipe) -> Optimizer:
    if not NETWORKS[recipe.model].takes_muon:
        names = ", ".join(name for name, spec in NETWORKS.items() if spec.takes_muon)
        raise ValueError(
            f"--optimizer muon has learning rates for {names} only, not for {recipe.model}: "
            f"use sgd or adamw, or --model {names}."
        )
    groups = muon.parameter_groups(model, recipe.momentum, recipe.weight_decay)
    return muon.Muon(groups, recipe.learning_rate)


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Set the learning rate of the next step in all groups; a group's "rate" is a multiple of it."""
    for group in optimizer.param_groups:
        rate = learning_rate * group.get("rate", 1.0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def store_learning_rates(optimizer: Optimizer, device: torch.device) -> None:
    """Keep the learning rates in memory of a device, where a recorded step reads them."""
    for group in optimizer.param_groups:
        if not isinstance(group["lr"], Tensor):
            group["lr"] = torch.tensor(group["lr"], device=device)
        if "capturable" in group:
            group["capturable"] = True


def optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """Return the optimizer's state, with the learning rates as numbers."""
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        group["lr"] = float(group["lr"])
    return state
