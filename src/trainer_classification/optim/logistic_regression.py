"""Fit a linear classifier to features: multinomial logistic regression by L-BFGS, which needs no learning rate.

Liu and Nocedal, "On the limited memory BFGS method for large scale optimization",
Mathematical Programming 45 (1989), as in `torch.optim.LBFGS`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from trainer_classification.optim.unguarded import LBFGS

_HISTORY = 10  # steps that the curvature is estimated from
_ITERATIONS = 60
_TOLERANCE = 1e-5  # of the loss between two iterations


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier.

    Attributes:
        weight: float32 [K, F].
        bias: float32 [K].
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Features, float32 [N, F], to logits, float32 [N, K]."""
        return F.linear(features, self.weight, self.bias)


def fit_head(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    decay: float,
    start: LinearHead | None = None,
    *,
    class_weights: Tensor | None = None,
) -> LinearHead:
    """Minimize the mean cross entropy plus half the decay times the squared norm of the weights.

    Features are divided by their common standard deviation first, so that one
    decay means the same for every network. Their means are subtracted, which the
    bias makes up for: a fourth fewer evaluations of the loss on Caltech-101, as it
    curves less differently along its axes.

    Args:
        features: float32 [N, F].
        labels: int64 [N].
        num_classes: K.
        decay: of the weights.
        start: a solution nearby, such as that of another decay; None: zeros.
        class_weights: float32 [K], of each image by its label; the sum of their
            losses is divided by N. None: all 1.

    Returns:
        The classifier of the features as they were given, on their device.
    """
    scale = float(features.std()) or 1.0
    mean = features.mean(0)
    centered = (features - mean) / scale
    if start is None:
        weight = features.new_zeros(num_classes, features.shape[1])
        bias = features.new_zeros(num_classes)
    else:
        weight = start.weight * scale
        bias = start(mean)
    weight.requires_grad_()
    bias.requires_grad_()
    optimizer = LBFGS(
        [weight, bias],
        max_iter=_ITERATIONS,
        history_size=_HISTORY,
        tolerance_change=_TOLERANCE,
        line_search_fn="strong_wolfe",
    )

    def measure_mean(logits: Tensor) -> Tensor:
        if class_weights is None:
            return F.cross_entropy(logits, labels)
        return (F.cross_entropy(logits, labels, reduction="none") * class_weights[labels]).mean()

    def measure_loss() -> Tensor:
        optimizer.zero_grad()
        penalty = 0.5 * decay * weight.square().sum()
        loss = measure_mean(F.linear(centered, weight, bias)) + penalty
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(measure_loss)  # type: ignore[no-untyped-call]

    fitted = weight.detach() / scale

    return LinearHead(fitted, bias.detach() - F.linear(mean, fitted))
