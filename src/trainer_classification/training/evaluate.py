"""Evaluate exactly: each image once, all metrics from one confusion matrix that is read once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer_classification.arrays import Float32, Int64
from trainer_classification.loaders.base import Loader
from trainer_classification.metrics.classification import balanced_accuracy, count_confusion
from trainer_classification.metrics.confusion import Confusion, count_cells, is_dense
from trainer_classification.models.normalize import Normalize
from trainer_classification.training.distributed import World
from trainer_classification.training.tta import Views, logits_over


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        loss: mean cross entropy.
        accuracy: in 0..1.
        confusion: [K, K], images by true class (row) and predicted class (column):
            int64, or pairs of more than 1,000 classes.
    """

    loss: float
    accuracy: float
    confusion: Confusion

    @property
    def balanced_accuracy(self) -> float:
        """Mean over the classes of the accuracy within each; classes without images do not count."""
        return balanced_accuracy(self.confusion)


def evaluate_logits(logits: Float32, labels: Int64, num_classes: int) -> Evaluation:
    """Evaluate logits that were computed before.

    Args:
        logits: float32 [N, K].
        labels: int64 [N], in 0..K-1.
        num_classes: K.
    """
    confusion = count_confusion(labels, logits.argmax(1), num_classes)
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
    counter = _Counter(num_classes, loader, device)
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
        counter.add(labels, logits.argmax(1))
    model.train(was_training)

    world.sum(loss)
    confusion = counter.finish(world)
    accuracy = float(confusion.trace()) / loader.samples

    return Evaluation(float(loss) / loader.samples, accuracy, confusion)


class _Counter:
    """Count the confusion matrix on the device, without waiting for it.

    Up to 1,000 classes the matrix itself is there. For more it is a list of the
    cells that images fall into, 8 bytes an image: the matrix grows with the square
    of the classes.

    Args:
        num_classes: K.
        loader: of the split.
        device: that evaluates.
    """

    def __init__(self, num_classes: int, loader: Loader, device: torch.device) -> None:
        self.num_classes = num_classes
        self.is_dense = is_dense(num_classes)
        length = num_classes**2 if self.is_dense else loader.steps * loader.schedule.rows
        self._values = torch.full((length,), 0 if self.is_dense else -1, device=device)
        self._images = 0

    def add(self, labels: Tensor, predictions: Tensor) -> None:
        """Count a batch.

        Args:
            labels: int64 [B].
            predictions: int64 [B].
        """
        cells = labels * self.num_classes + predictions
        if self.is_dense:
            self._values.scatter_add_(0, cells, torch.ones_like(cells))  # bincount would wait
        else:
            self._values[self._images : self._images + len(cells)] = cells
        self._images += len(cells)

    def finish(self, world: World) -> Confusion:
        """Return the matrix of all ranks, on every rank."""
        if self.is_dense:
            world.sum(self._values)
            return self._values.view(self.num_classes, self.num_classes).cpu().numpy()
        cells = world.gather(self._values).flatten().cpu().numpy()
        return count_cells(cells[cells >= 0], self.num_classes, self.num_classes)
