"""End an epoch: evaluate, print and track its metrics, keep the best weights, and save."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from trainer_classification.console import has_live_line, log
from trainer_classification.files import nullify
from trainer_classification.training.best_epoch import measure_validation, score_epoch
from trainer_classification.training.budget import BudgetController
from trainer_classification.training.early_stop import is_early_stop
from trainer_classification.training.epoch_lines import format_line, format_row
from trainer_classification.training.evaluate import evaluate
from trainer_classification.training.metrics import summarize
from trainer_classification.training.save import save_checkpoint, save_model
from trainer_classification.training.setup import Setup
from trainer_classification.training.state import State


@dataclass(frozen=True)
class EpochStart:
    """The counters at the start of an epoch, or where this process resumed it.

    Attributes:
        seconds_training: of the run.
        seconds_waiting: of the run.
        images: of the run.
        step: in the epoch.
        tracked: (step of the run, loss on the device) of the steps to track;
            filled while the epoch runs.
    """

    seconds_training: float
    seconds_waiting: float
    images: int
    step: int
    tracked: list[tuple[int, Tensor]] = field(default_factory=list)

    @classmethod
    def of(cls, state: State) -> EpochStart:
        """Take the counters as they are now."""
        return cls(state.seconds_training, state.seconds_waiting, state.images, state.step)


def measure_epoch(setup: Setup, state: State, start: EpochStart) -> dict[str, Any]:
    """Stop the timer, evaluate, and return the metrics of the epoch, a line of metrics.jsonl."""
    sums = state.metrics.sums.clone()
    setup.world.sum(sums)
    loss, accuracy, _ = summarize(sums)  # waits for the device, so the timer must stop after it
    state.pause_timer(setup)

    seconds = state.seconds_training - start.seconds_training
    row: dict[str, Any] = {
        "epoch": state.epoch + 1,
        "loss_train": loss,
        "accuracy_train": accuracy,
        "images_per_second": (state.images - start.images) / seconds,
        "data_wait_fraction": (state.seconds_waiting - start.seconds_waiting) / seconds,
        "learning_rate": float(setup.step.optimizer.param_groups[0]["lr"]),
        "seconds": seconds,
    }
    if setup.validation_loader is not None:
        result = evaluate(
            setup.step.kept_model,
            setup.validation_loader,
            setup.normalize,
            setup.num_classes,
            dtype=setup.dtype,
            world=setup.world,
        )
        row |= measure_validation(result, setup.config.best_by)
    return row


def close_epoch(
    setup: Setup,
    state: State,
    row: dict[str, Any],
    start: EpochStart,
    controller: BudgetController | None,
) -> None:
    """Print and track the epoch, keep the best weights, and save.

    Args:
        setup: of the run.
        state: at the end of the epoch.
        row: of `measure_epoch`.
        start: of the epoch.
        controller: of the budget, if there is one.
    """
    state.history.append(nullify(row))
    in_table = has_live_line() and setup.recipe.freeze != "backbone"
    log((format_row if in_table else format_line)(row, setup.epochs(state)))
    _track(setup, row, start)
    setup.tracker.epochs(state.history)

    steps = state.step - start.step
    state.steps_before = state.steps_done
    state.epoch = row["epoch"]
    state.step = 0
    state.metrics.reset()
    if controller is not None:
        controller(setup, state, row["seconds"], steps)

    score = score_epoch(row, setup.config.best_by)
    if score >= state.best_score:
        state.best_score = score
        save_model(setup, state, setup.tracker.checkpoint_dir / "best.pth")
    state.finished = state.epoch == setup.epochs(state) or is_early_stop(setup, state)
    save_checkpoint(setup, state, "last.pth")


def _track(setup: Setup, row: dict[str, Any], start: EpochStart) -> None:
    """Send the metrics of the epoch and of some of its steps to the tracker."""
    for step, loss in start.tracked:
        setup.tracker.scalar("train/loss_step", loss.item(), step)
    for name, value in row.items():
        if name == "epoch":
            continue
        kind, _, split = name.partition("_")
        tracked_name = f"{split}/{kind}" if kind in ("loss", "accuracy") else name
        setup.tracker.scalar(tracked_name, value, row["epoch"])
