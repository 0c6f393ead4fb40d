"""The model a training begins with: random, whitened by the training images, or with weights from elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from trainer_classification.checkpoint.weights import load_weights
from trainer_classification.config import TrainConfig
from trainer_classification.console import log
from trainer_classification.data.array import ArrayStore, open_array
from trainer_classification.data.manifest import Manifest
from trainer_classification.models import build
from trainer_classification.models.normalize import Normalize
from trainer_classification.models.speednet import WHITENED, SpeedNet, whiten
from trainer_classification.plan import Plan
from trainer_classification.recipes import Recipe


def build_initial_model(config: TrainConfig, recipe: Recipe, folder: Path, manifest: Manifest, plan: Plan) -> nn.Module:
    """The recipe's network on the CPU, with the weights of `--weights` where it is given.

    Raises:
        ValueError: those weights cannot be had, or fit nowhere.
    """
    torch.manual_seed(config.seed)
    model = build(recipe.model, len(manifest.class_names), manifest.channels, recipe.image_size, recipe.width)
    if isinstance(model, SpeedNet):
        whiten_first_layer(model, open_array(folder, manifest, "train"), manifest, plan)
    if config.weights:
        log(load_weights(model, config.weights, recipe.model, manifest.class_names))
    return model


def whiten_first_layer(model: nn.Module, store: ArrayStore, manifest: Manifest, plan: Plan) -> None:
    """Whiten a SpeedNet by the first images of the first epoch, so that all ranks agree; others stay as they are.

    Args:
        model: on the CPU.
        store: the training images.
        manifest: has their mean and std.
        plan: of the training.
    """
    if not isinstance(model, SpeedNet):
        return
    count = -(-WHITENED // (store.images.shape[1] * store.images.shape[2]))
    rows = store.images[np.sort(plan.order(0)[:count])]
    images = torch.from_numpy(np.ascontiguousarray(rows if store.layout == "HWC" else rows.swapaxes(1, 2)))
    whiten(model, Normalize(manifest.mean, manifest.std, torch.device("cpu"))(images))
