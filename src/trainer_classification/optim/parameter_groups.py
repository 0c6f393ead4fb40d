"""Build the optimizer: SGD with Nesterov momentum, AdamW or Muon, with weight decay on weights only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from trainer_classification.models import SpeedNet
from trainer_classification.optim import muon
from trainer_classification.recipes import Recipe


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Group the parameters into weights, which decay, and norms and biases, which do not.

    Decay of a norm's scale or a bias only changes the effective learning rate (He et al., "Bag of tricks for image
    classification", arXiv 1812.01187).
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = [parameter for parameter in parameters if parameter.ndim > 1]
    norms_and_biases = [parameter for parameter in parameters if parameter.ndim <= 1]
    return [
        {"params": weights, "weight_decay": weight_decay},
        {"params": norms_and_biases, "weight_decay": 0.0},
    ]


def build_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """Build the recipe's optimizer for a model that is already on its device.

    Raises:
        ValueError: the recipe has Muon for a network other than speednet.
    """
    if recipe.optimizer == "muon":
        if not isinstance(model, SpeedNet):
            raise ValueError("--optimizer muon has rates for speednet only: use sgd or adamw, or --model speednet.")
        groups = muon.parameter_groups(model, recipe.momentum, recipe.weight_decay)
        return muon.Muon(groups, recipe.learning_rate)
    groups = parameter_groups(model, recipe.weight_decay)
    fused = next(model.parameters()).device.type in ("cpu", "cuda")  # one kernel updates all tensors
    if recipe.optimizer == "adamw":
        return AdamW(groups, lr=recipe.learning_rate, betas=(recipe.momentum, 0.999), fused=fused)
    return SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=fused)


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Set the learning rate of the next step in all groups; some use a multiple of it."""
    for group in optimizer.param_groups:
        rate = learning_rate * group.get("rate", 1.0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def store_learning_rates(optimizer: Optimizer, device: torch.device) -> None:
    """Move the learning rates into memory of the device, where a recorded step reads them."""
    for group in optimizer.param_groups:
        if not isinstance(group["lr"], Tensor):
            group["lr"] = torch.tensor(group["lr"], device=device)
        if "capturable" in group:
            group["capturable"] = True


def optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """Return the optimizer's state dict, with learning rates as numbers even if they are stored on a device."""
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        group["lr"] = float(group["lr"])
    return state
