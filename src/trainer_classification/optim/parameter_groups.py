"""Build the optimizer of a recipe, and set its learning rate.

SGD with Nesterov momentum and AdamW are fused, and decay only weights, not norms
and biases. Muon is in muon.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer_classification.models.catalogue import NETWORKS
from trainer_classification.models.speednet import SpeedNet
from trainer_classification.optim import muon
from trainer_classification.optim.unguarded import SGD, AdamW
from trainer_classification.recipes import Recipe


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the group of weights, which decay, and the group of norms and biases, which do not.

    Decay of a norm's scale or of a bias would only change the effective learning
    rate (He et al., "Bag of tricks for image classification", arXiv 1812.01187).
    """
    return _split_by_decay(model.parameters(), weight_decay)


def finetuning_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Return the groups of the head, and of the backbone with a learning rate of its own ("rate").

    Those of the backbone are marked with "is_backbone".
    """
    head = cast(nn.Module, getattr(model, NETWORKS[recipe.model].head))
    in_head = {id(parameter) for parameter in head.parameters()}
    backbone = [parameter for parameter in model.parameters() if id(parameter) not in in_head]
    slow = {"rate": recipe.backbone_rate, "is_backbone": True}

    return [
        *_split_by_decay(head.parameters(), recipe.weight_decay),
        *(group | slow for group in _split_by_decay(backbone, recipe.weight_decay)),
    ]


def _split_by_decay(
    candidates: Iterable[nn.Parameter], weight_decay: float
) -> list[dict[str, Any]]:
    parameters = [parameter for parameter in candidates if parameter.requires_grad]
    weights = [parameter for parameter in parameters if parameter.ndim > 1]
    norms_and_biases = [parameter for parameter in parameters if parameter.ndim <= 1]

    return [
        {"params": weights, "weight_decay": weight_decay},
        {"params": norms_and_biases, "weight_decay": 0.0},
    ]


def build_optimizer(
    model: nn.Module, recipe: Recipe, dtype: torch.dtype | None = None
) -> Optimizer:
    """Return the recipe's optimizer for a model that is on its device already.

    Args:
        model: to train.
        recipe: names the optimizer and its values.
        dtype: of autocast in the step. On a CPU, Muon's products have it, too.

    Raises:
        ValueError: the optimizer is Muon, and the recipe's network cannot be
            trained by it.
    """
    is_slower = recipe.backbone_rate != 1 or recipe.unfreeze_after > 0
    if recipe.optimizer == "muon":
        if is_slower:
            raise ValueError(
                "--optimizer muon has a rate for each layer of its own: omit --backbone-rate and --unfreeze-after."
            )
        return _build_muon(model, recipe, dtype)

    groups = (
        finetuning_groups(model, recipe)
        if is_slower
        else parameter_groups(model, recipe.weight_decay)
    )
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


def _build_muon(model: nn.Module, recipe: Recipe, dtype: torch.dtype | None) -> Optimizer:
    if not NETWORKS[recipe.model].takes_muon:
        names = ", ".join(name for name, spec in NETWORKS.items() if spec.takes_muon)
        raise ValueError(
            f"--optimizer muon has learning rates for {names} only, not for {recipe.model}: "
            f"use sgd or adamw, or --model {names}."
        )
    stem = cast(SpeedNet, model).whiten.bias if recipe.stem_epochs else None
    groups = muon.parameter_groups(model, recipe.momentum, recipe.weight_decay, stem)
    is_on_cpu = next(model.parameters()).device.type == "cpu"
    return muon.Muon(groups, recipe.learning_rate, dtype if is_on_cpu else None)


def set_learning_rate(
    optimizer: Optimizer,
    learning_rate: float,
    freeze_backbone: bool = False,
    freeze_stem: bool = False,
) -> None:
    """Set the learning rate of the next step in all groups.

    A group's "rate" is a multiple of it. A rate of zero freezes a layer: recorded
    and distributed steps stay as they are.

    Args:
        optimizer: of `build_optimizer`.
        learning_rate: of the head.
        freeze_backbone: True: all other layers stay as they are.
        freeze_stem: True: the bias of a speednet's first layer stays as it is.
    """
    for group in optimizer.param_groups:
        is_frozen = (freeze_backbone and "is_backbone" in group) or (
            freeze_stem and "is_stem" in group
        )
        rate = 0.0 if is_frozen else learning_rate * group.get("rate", 1.0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def compute_stem_gradients(optimizer: Optimizer, are_wanted: bool) -> None:
    """Choose whether a backward pass goes back to the first layer of a speednet, whose bias has a group of its own."""
    for group in optimizer.param_groups:
        if "is_stem" in group:
            for parameter in group["params"]:
                parameter.requires_grad_(are_wanted)


def store_learning_rates(optimizer: Optimizer, device: torch.device) -> None:
    """Keep the learning rates in memory of a device, where a recorded step reads them."""
    for group in optimizer.param_groups:
        if not isinstance(group["lr"], Tensor):
            group["lr"] = torch.tensor(group["lr"], device=device)
        if "capturable" in group:
            group["capturable"] = True


def load_optimizer_state(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load the state of an optimizer, each tensor in the memory layout of its parameter.

    Fused optimizers walk through both in the order of memory: a contiguous momentum
    beside a channels-last weight would be added to the wrong elements.

    Args:
        optimizer: of the model.
        state: as `optimizer_state` returns it.

    Raises:
        ValueError: it is of other parameters.
    """
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """Return the optimizer's state, with the learning rates as numbers."""
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        group["lr"] = float(group["lr"])
    return state
