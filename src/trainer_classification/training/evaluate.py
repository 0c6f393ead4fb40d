"""Evaluate exactly: each image once, all metrics from one confusion matrix that is read once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from trainer_classification.arrays import Float32, Int64
from trainer_classification.loaders.base import Loader
from trainer_classification.models.normalize import Normalize
from trainer_classification.training.distributed import World
from trainer_classification.training.tta import Views, logits_over


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        loss: mean cross entropy.
        accuracy: in 0..1.
        confusion: int64 [K, K], images by true class (row) and predicted class
            (column).
    """

    loss: float
    accuracy: float
    confusion: npt.NDArray[np.int64]

    @property
    def balanced_accuracy(self) -> float:
        """Mean over the classes of the accuracy within each; classes without images do not count."""
        counts = self.confusion.sum(1)
        present = counts > 0
        return float((self.confusion.diagonal()[present] / counts[present]).mean())


def evaluate_logits(logits: Float32, labels: Int64, num_classes: int) -> Evaluation:
    """Evaluate logits that were computed before.

    Args:
        logits: float32 [N, K].
        labels: int64 [N], in 0..K-1.
        num_classes: K.
    """
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (labels, logits.argmax(1)), 1)
    loss = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(np.array(labels)))

    return Evaluation(float(loss), float(confusion.trace()) / len(labels), confusion)


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Loader,
    normalize: Normalize,
    num_classes: int,
    *,
    dtype: torch.dtype | None = None,
    world: World | None = None,
    views: Views = "none",
) -> Evaluation:
    """Evaluate a model on a split; afterwards the model is in the mode it was in before.

    Every rank evaluates its part with the running statistics of rank 0. All
    return the same result, over all images.

    Args:
        model: on its device.
        loader: of the split, without a plan.
        normalize: turns a batch into the network's input.
        num_classes: K.
        dtype: of autocast; None: none.
        world: the processes that evaluate together; None: only this one.
        views: of each image, as `--tta`.
    """
    world = world or World()
    device = normalize.scale.device
    confusion = torch.zeros(num_classes**2, dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)

    was_training = model.training
    model.eval()
    world.broadcast_state(model, buffers_only=True)
    for batch in loader.epoch(0):
        if batch.count == 0:  # the last batch may have no images for the last ranks
            continue
        images = batch.images[: batch.count]
        labels = batch.labels[: batch.count]
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            logits = logits_over(model, normalize(images), views)
        loss += F.cross_entropy(logits, labels, reduction="sum")
        cells = labels * num_classes + logits.argmax(1)
        confusion.scatter_add_(
            0, cells, torch.ones_like(cells)
        )  # bincount would wait for the device
    model.train(was_training)

    world.sum(loss, confusion)
    matrix = confusion.view(num_classes, num_classes).cpu().numpy()

    return Evaluation(float(loss) / loader.samples, float(matrix.trace()) / loader.samples, matrix)
