"""What a model begins with beyond its random weights: statistics of the training images."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from trainer_classification.data.array import ArrayStore
from trainer_classification.data.manifest import Manifest
from trainer_classification.models.speednet import WHITENED, SpeedNet, whiten
from trainer_classification.plan import Plan
from trainer_classification.training.step import Normalise


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
    rows = store.images[np.sort(plan.order(0)[:WHITENED])]
    images = torch.from_numpy(np.ascontiguousarray(rows if store.layout == "HWC" else rows.swapaxes(1, 2)))
    whiten(model, Normalise(manifest.mean, manifest.std, torch.device("cpu"))(images))
