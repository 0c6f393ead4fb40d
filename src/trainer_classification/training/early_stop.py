"""`--early-stop N`: end a training once validation has not improved for N epochs.

It is a pure function of the history, which checkpoints keep: a resumed run stops
where the straight one does, and goes on where the option is 0 by then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from trainer_classification.checkpoint.meta import Progress
from trainer_classification.optim.lr_schedule import factor
from trainer_classification.training.best_epoch import BestBy, score_epoch
from trainer_classification.training.setup import Setup
from trainer_classification.training.state import State

_LOW_RATE = 0.05  # of the peak, below which a schedule has as good as ended


def count_stale_epochs(history: Sequence[dict[str, Any]], best_by: BestBy) -> int:
    """Return how many epochs at the end of a run were no better than the best before them.

    An epoch that equals the best is no improvement, although its weights are kept.

    Args:
        history: rows of metrics.jsonl.
        best_by: what is compared.
    """
    best = -math.inf
    stale = 0
    for row in history:
        score = score_epoch(row, best_by)
        stale = 0 if score > best else stale + 1
        best = max(best, score)
    return stale


def is_early_stop(setup: Setup, state: State) -> bool:
    """Return whether the run ends here for lack of improvement; rank 0 decides for all.

    Args:
        setup: of the run.
        state: between two epochs.
    """
    patience = setup.config.early_stop
    if not patience or setup.recipe.freeze == "backbone":
        return False

    def decide() -> bool:
        return count_stale_epochs(state.history, setup.config.best_by) >= patience

    return bool(setup.world.broadcast_object(decide))


def describe_early_stop(setup: Setup, progress: Progress) -> str:
    """Say that a run has stopped early, and how far its learning rate had come."""
    epochs = setup.epochs(progress)
    stale = count_stale_epochs(progress.history, setup.config.best_by)
    text = (
        f"Stopped early: validation has not improved for {stale} epochs (--early-stop {setup.config.early_stop}), so "
        f"{epochs - progress.epoch} of {epochs} epochs are left out."
    )
    total = setup.total_steps(progress)
    recipe = setup.recipe
    rate = factor(progress.steps_done, total, recipe.schedule, recipe.warmup_fraction)
    if recipe.schedule == "constant" or rate < _LOW_RATE:
        return text
    return (
        f"{text} The learning rate was still {rate:.0%} of its peak, and most of a run's gain comes as it falls: "
        f"--epochs {progress.epoch} would let it fall in the same time."
    )
