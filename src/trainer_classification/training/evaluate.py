"""Exact evaluation: every image once, all figures from one confusion matrix, read once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from trainer_classification.loaders.base import Loader
from trainer_classification.models.normalize import Normalize
from trainer_classification.training.distributed import World
from trainer_classification.training.tta import Views, logits_over


@dataclass(frozen=True)
class Evaluation:
    """Mean cross entropy, accuracy, and how often each class (row) was taken for each (column): int64 [K, K]."""

    loss: float
    accuracy: float
    confusion: npt.NDArray[np.int64]

    @property
    def balanced_accuracy(self) -> float:
        """Mean over the classes of the share of each that was right; classes without images do not count."""
        counts = self.confusion.sum(1)
        there = counts > 0
        return float((self.confusion.diagonal()[there] / counts[there]).mean())


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Loader,
    normalize: Normalize,
    num_classes: int,
    dtype: torch.dtype | None,
    world: World | None = None,
    views: Views = "none",
) -> Evaluation:
    """Evaluate a model on a split; the model is left in the mode it was in.

    Every rank evaluates its share by the running statistics of rank 0, and all get the same figures, of all images.
    """
    world = world or World()
    device = normalize.scale.device
    confusion = torch.zeros(num_classes**2, dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    training = model.training
    model.eval()
    world.broadcast_state(model, buffers_only=True)
    for batch in loader.epoch(0):
        if batch.count == 0:  # the last batch may leave nothing for the last ranks
            continue
        images, labels = batch.images[: batch.count], batch.labels[: batch.count]
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            logits = logits_over(model, normalize(images), views)
        loss += F.cross_entropy(logits.float(), labels, reduction="sum")
        pairs = labels * num_classes + logits.argmax(1)
        confusion.scatter_add_(0, pairs, torch.ones_like(pairs))  # bincount would wait for the device
    model.train(training)
    world.sum(loss, confusion)
    matrix = confusion.view(num_classes, num_classes).cpu().numpy()
    return Evaluation(float(loss) / loader.samples, float(matrix.trace()) / loader.samples, matrix)
