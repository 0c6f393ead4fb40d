"""Find out that a training has diverged: weights that are not finite are never kept."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trainer_classification.training.setup import Setup


def advise_on_divergence(setup: Setup) -> str:
    """Return what to try after a training that diverged."""
    return (
        f"Try a lower --learning-rate (it is {setup.recipe.learning_rate:g}), a longer "
        f"--warmup-fraction, or --amp off."
    )


def check_weights(setup: Setup, weights: Mapping[str, Tensor]) -> None:
    """Check that every weight and every running statistic is finite; waits for the device once.

    Raises:
        ValueError: one is not.
    """
    are_finite = [
        tensor.isfinite().all() for tensor in weights.values() if tensor.is_floating_point()
    ]
    if not torch.stack(are_finite).all():
        raise ValueError(
            f"The weights are not finite: the training diverged. {advise_on_divergence(setup)}"
        )
