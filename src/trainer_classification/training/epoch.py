"""The end of an epoch: its figures are printed, tracked and kept, and everything is saved."""

from __future__ import annotations

from typing import Any

import torch

from trainer_classification.console import duration, log
from trainer_classification.training.evaluate import evaluate
from trainer_classification.training.run import Run
from trainer_classification.training.save import save, save_model
from trainer_classification.training.step_timer import StepTimer


def pause(run: Run) -> None:
    """Stop the clock and add its seconds to the state."""
    run.clock.stop()
    run.state.seconds_training += run.clock.training
    run.state.seconds_waiting += run.clock.waiting
    run.clock = StepTimer(run.device)


def epoch_row(run: Run, before: tuple[float, float, int], trained: tuple[float, float, int]) -> dict[str, Any]:
    """The figures of an epoch, a line of metrics.jsonl."""
    state = run.state
    seconds = state.seconds_training - before[0]
    row: dict[str, Any] = {
        "epoch": state.epoch + 1,
        "loss_train": trained[0],
        "accuracy_train": trained[1],
        "images_per_second": (state.images - before[2]) / seconds,
        "data_wait_fraction": (state.seconds_waiting - before[1]) / seconds,
        "learning_rate": float(run.step.optimizer.param_groups[0]["lr"]),
        "seconds": seconds,
    }
    if run.validation_loader is not None:
        classes = len(run.manifest.class_names)
        result = evaluate(run.evaluated, run.validation_loader, run.normalize, classes, run.dtype, run.world)
        row |= {"loss_validation": result.loss, "accuracy_validation": result.accuracy}
    return row


def close_epoch(run: Run, row: dict[str, Any], points: list[tuple[int, torch.Tensor]], first: int) -> None:
    """Print and track the epoch, keep the best weights, and save.

    Args:
        run: at the end of the epoch.
        row: as of `epoch_row`.
        points: (step, loss) of those to track.
        first: step of the epoch with which this process began; not 0 in one that is resumed.
    """
    state = run.state
    state.history.append(row)
    log(_line(run, row))
    for step, loss in points:
        run.tracker.scalar("train/loss_step", loss.item(), step)
    for name, value in row.items():
        if name != "epoch":
            kind, _, split = name.partition("_")
            run.tracker.scalar(f"{split}/{kind}" if kind in ("loss", "accuracy") else name, value, row["epoch"])
    score = row.get("accuracy_validation", float(row["epoch"]))  # without validation the last epoch is the best
    steps = state.step - first
    state.before, state.epoch, state.step = run.done, row["epoch"], 0
    run.totals.reset()
    if run.budget_controller is not None:
        run.budget_controller(run, row["seconds"], steps)
    if score > state.best:
        state.best = score
        save_model(run, run.tracker.checkpoint_dir / "best.pth")
    state.finished = state.epoch == run.epochs
    save(run, "last.pth")


def _line(run: Run, row: dict[str, Any]) -> str:
    text = f"epoch {row['epoch']}/{run.epochs}  loss {row['loss_train']:.4f}  accuracy {row['accuracy_train']:.2%}"
    if "accuracy_validation" in row:
        text += f"  validation loss {row['loss_validation']:.4f}  accuracy {row['accuracy_validation']:.2%}"
    left = (run.epochs - row["epoch"]) * row["seconds"]
    return text + (
        f"  {row['images_per_second']:,.0f} img/s  data-wait {row['data_wait_fraction']:.2%}  "
        f"{duration(row['seconds'])}" + (f", {duration(left)} left" if left else "")
    )
