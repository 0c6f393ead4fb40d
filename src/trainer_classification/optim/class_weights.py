"""Weigh the classes of the loss by how rare they are: `--class-weights balanced`.

King and Zeng, "Logistic regression in rare events data", Political Analysis 9
(2001), as `compute_class_weight("balanced")` of scikit-learn.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def balance_classes(counts: Sequence[int]) -> Tensor:
    """Return the weight n / (K * n_k) of each class.

    Over the training images the weights have mean 1, and each class has the same
    sum. A class without images has weight 0, and is not one of the K.

    Args:
        counts: training images of each class, n_k; n is their sum.

    Returns:
        float32 [number of classes].
    """
    images = torch.tensor(counts, dtype=torch.float64)
    present = images > 0
    weights = images.sum() / (present.sum() * images.clamp(min=1))

    return torch.where(present, weights, 0.0).float()
