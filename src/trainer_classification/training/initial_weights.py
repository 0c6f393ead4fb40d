"""Build the model that a training starts with: random, whitened with training images, or with given weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from trainer_classification.arrays import Uint8
from trainer_classification.augment.device import augment, to_device
from trainer_classification.augment.reference import Layout, stored_shape
from trainer_classification.checkpoint.weights import load_weights
from trainer_classification.config import TrainConfig
from trainer_classification.console import log
from trainer_classification.data.array import ArrayStore, open_array
from trainer_classification.data.manifest import Manifest
from trainer_classification.data.planes import open_planes
from trainer_classification.models import build
from trainer_classification.models.normalize import Normalize
from trainer_classification.models.speednet import WHITENED, SpeedNet, whiten
from trainer_classification.plan import Plan, Policy, identity
from trainer_classification.recipes import Recipe


def build_initial_model(
    config: TrainConfig, weights: str, recipe: Recipe, folder: Path, manifest: Manifest, plan: Plan
) -> nn.Module:
    """Build the recipe's network on the CPU, with trained weights if there are any.

    Args:
        config: what the user asked for.
        weights: "imagenet", a path, or "" for random weights.
        recipe: of the training.
        folder: of the prepared dataset.
        manifest: of the prepared dataset.
        plan: of the training.

    Raises:
        ValueError: the weights cannot be read, or are of another network.
    """
    torch.manual_seed(config.seed)
    model = build(
        recipe.model, len(manifest.class_names), manifest.channels, recipe.image_size, recipe.width
    )
    if isinstance(model, SpeedNet):
        open_images = open_array if "array" in manifest.formats else open_planes
        whiten_first_layer(
            model, open_images(folder, manifest, "train", on_demand=True), manifest, plan
        )
    if weights:
        log(load_weights(model, weights, recipe.model, manifest.class_names))
    return model


def whiten_first_layer(model: SpeedNet, store: ArrayStore, manifest: Manifest, plan: Plan) -> None:
    """Whiten the first layer with the first images of the first epoch, which are the same on all ranks.

    Args:
        model: on the CPU; changed in place.
        store: the training images.
        manifest: has their mean and std.
        plan: of the training.
    """
    side, _ = stored_shape(store.images.shape, store.layout)
    count = -(-WHITENED // side**2)
    first = np.sort(plan.order(0)[:count])
    if store.remote is not None:
        store.remote.require(first)
    normalize = Normalize(manifest.mean, manifest.std, torch.device("cpu"))
    whiten(model, normalize(_upright(store.images[first], store.layout, side)))


def _upright(images: Uint8, layout: Layout, side: int) -> Tensor:
    """Return stored images as uint8 [N, S, S, C], [y, x, c] each."""
    if layout == "YCC":
        rows = np.arange(len(images))
        whole = to_device(identity(len(images))[rows], torch.device("cpu"))
        crop = Policy(crop="resized")
        return augment(torch.from_numpy(images), torch.from_numpy(rows), whole, crop, side, layout)
    upright = images if layout == "HWC" else images.swapaxes(1, 2)
    return torch.from_numpy(np.ascontiguousarray(upright))
