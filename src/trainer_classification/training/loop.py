"""Run the epochs of a training: steps, checkpoints, the live line."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from trainer_classification.console import duration, has_live_line, live_line, log
from trainer_classification.optim.lr_schedule import factor
from trainer_classification.optim.parameter_groups import (
    compute_stem_gradients,
    set_learning_rate,
)
from trainer_classification.training.budget import BudgetController, has_budget, parse_seconds
from trainer_classification.training.divergence import advise_on_divergence, check_weights
from trainer_classification.training.early_stop import describe_early_stop, is_early_stop
from trainer_classification.training.epoch import EpochStart, close_epoch, measure_epoch
from trainer_classification.training.epoch_lines import format_heading
from trainer_classification.training.save import save_checkpoint
from trainer_classification.training.setup import Setup
from trainer_classification.training.signals import Stopped
from trainer_classification.training.state import State
from trainer_classification.training.torch_compile import TORCH_COMPILE_MODES

SAVE_SECONDS = 120.0  # a killed run loses at most this much
_MAX_NOT_FINITE = 20  # consecutive steps after which a run is given up
_TRACKED_STEPS = 200  # of a run, about


def fit(setup: Setup, state: State, received: list[int]) -> None:
    """Train the epochs that are left; evaluate, track and save after each.

    Args:
        setup: of the run.
        state: of the run.
        received: signals, as `catch_signals` yields them.
    """
    controller = (
        BudgetController(parse_seconds(setup.config.budget)) if has_budget(setup.config) else None
    )
    if has_live_line():
        log(format_heading())
    while state.epoch < setup.epochs(state) and not is_early_stop(setup, state):
        state.finished = False  # more epochs, or patience, than a finished run had
        _open_epoch_size(setup, state)
        _skip_stem_gradients(setup, state)
        start = EpochStart.of(state)
        _train_epoch(setup, state, received, start)
        row = measure_epoch(setup, state, start)
        _check_epoch(setup, state)
        close_epoch(setup, state, row, start, controller)
    setup.consensus.settle()
    state.finished = True
    if state.epoch < setup.epochs(state):
        log(describe_early_stop(setup, state))


def _open_epoch_size(setup: Setup, state: State) -> None:
    """Reopen the loader if this epoch's images have another size."""
    image_size = setup.image_size(state)
    if image_size != state.loader_size:
        state.reopen_loader(setup, image_size)
        log(f"Images have {image_size} px from now on.")


def _is_stem_frozen(setup: Setup, state: State) -> bool:
    return 0 < setup.recipe.stem_epochs <= state.epoch


def _skip_stem_gradients(setup: Setup, state: State) -> None:
    """Leave out the gradients of a frozen stem: a twentieth of a step of speednet on a CPU.

    Its learning rate is zero as well, which is all that steps can have that are
    recorded, compiled or shared with other ranks. Clipping counts these gradients.
    """
    is_plain = setup.device.type == "cpu" and setup.world.size == 1 and setup.step_mode == "off"
    if is_plain and not setup.recipe.clip_norm:
        compute_stem_gradients(setup.step.optimizer, not _is_stem_frozen(setup, state))


def _train_epoch(setup: Setup, state: State, received: list[int], start: EpochStart) -> None:
    """Run the steps of an epoch that are left; the timer still runs afterwards.

    Raises:
        Stopped: a signal reached any rank; the checkpoint is written.
    """
    state.timer.start()
    saved = time.monotonic()
    looked = saved
    tracked_interval = max(1, setup.total_steps(state) // _TRACKED_STEPS)
    for loss in run_steps(setup, state):
        if state.seconds_first_step == 0:
            _measure_first_step(setup, state, loss)
            _open_tracker(setup, state)
        if (state.steps_done - 1) % tracked_interval == 0:
            start.tracked.append((state.steps_done - 1, loss))
        if _is_look_due(setup, state, looked):
            looked = time.monotonic()
            _look(setup, state)

        request = 128 + received[0] if received else int(time.monotonic() - saved > SAVE_SECONDS)
        if request:
            saved = time.monotonic()
        if agreed := setup.consensus(request):
            _save_within_epoch(setup, state)
            if agreed > 1:
                raise Stopped(agreed, setup.tracker.checkpoint_dir / "last.pth")


def run_steps(setup: Setup, state: State) -> Iterator[torch.Tensor]:
    """Run the steps of an epoch that are left; yield the loss of each, a tensor [] on the device."""
    recipe = setup.recipe
    batches = state.train_loader.epoch(state.epoch, state.step)
    total_steps = setup.total_steps(state)
    for _ in range(state.step, setup.steps_per_epoch(state)):
        state.timer.request_batch()
        batch = next(batches)
        state.timer.receive_batch()

        scale = factor(state.steps_done, total_steps, recipe.schedule, recipe.warmup_fraction)
        set_learning_rate(
            setup.step.optimizer,
            recipe.learning_rate * scale,
            freeze_backbone=state.epoch < recipe.unfreeze_after,
            freeze_stem=_is_stem_frozen(setup, state),
        )
        loss = setup.step(batch, state.steps_done, state.metrics)
        state.timer.record_step()
        state.idle_threads()

        state.step += 1
        state.images += len(batch.labels) * setup.world.size
        yield loss


def _save_within_epoch(setup: Setup, state: State) -> None:
    """Write a checkpoint; its seconds do not count as training."""
    state.pause_timer(setup)
    save_checkpoint(setup, state, "last.pth")
    state.timer.start()


def _measure_first_step(setup: Setup, state: State, loss: torch.Tensor) -> None:
    """Note how long the user waited for the first step, and how long the step took: compilation, tuning."""
    loss.item()
    state.seconds_first_step = time.monotonic() - setup.inputs.started
    state.seconds_in_first_step = state.timer.elapsed - state.timer.waiting
    if setup.step_mode in TORCH_COMPILE_MODES:
        log(
            f"The first step took {state.seconds_in_first_step:.1f} s with --compile {setup.step_mode}."
        )


def _open_tracker(setup: Setup, state: State) -> None:
    """Open the tracker; its seconds do not count as training."""
    state.pause_timer(setup)
    setup.start_tracking()
    state.timer.start()


def _is_look_due(setup: Setup, state: State, looked: float) -> bool:
    """Return True every `--log-interval` steps, or by default about once a second."""
    if setup.config.log_interval:
        return state.step % setup.config.log_interval == 0
    return time.monotonic() - looked > 1


def _look(setup: Setup, state: State) -> None:
    """Check that the loss is finite, and draw the live line: the only place in an epoch that waits for the device."""
    _check_finite(setup, state)
    if not has_live_line():
        return
    loss, accuracy, images, _ = state.metrics.read()  # of rank 0's part
    seconds = state.timer.elapsed
    steps = max(1, images / state.train_loader.schedule.rows)
    seconds_left = (setup.total_steps(state) - state.steps_done) * seconds / steps
    live_line(
        f"epoch {state.epoch + 1}/{setup.epochs(state)} step {state.step}/{setup.steps_per_epoch(state)}  "
        f"loss {loss:.4f}  accuracy {accuracy:.2%}  {images * setup.world.size / seconds:,.0f} img/s  "
        f"data-wait {state.timer.waiting / seconds:.1%}  {duration(seconds_left)} left"
    )


def _check_finite(setup: Setup, state: State) -> None:
    """Raise ValueError if the loss was not finite for many steps."""
    steps = int(state.metrics.not_finite)
    if steps >= _MAX_NOT_FINITE:
        raise ValueError(
            f"The loss was not finite in {steps} steps in a row. {advise_on_divergence(setup)}"
        )


def _check_epoch(setup: Setup, state: State) -> None:
    """Raise ValueError if an epoch without a finite loss has ended, or one that has ruined the weights."""
    _check_finite(setup, state)
    steps = int(state.metrics.not_finite)
    if steps >= state.step > 0:
        raise ValueError(
            f"The loss was not finite in the {steps} steps of the epoch. {advise_on_divergence(setup)}"
        )
    for model in (setup.step.model, setup.step.kept_model):
        check_weights(setup, model.state_dict())
