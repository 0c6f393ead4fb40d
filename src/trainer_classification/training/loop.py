"""From a config to a trained model: prepare, fit, evaluate, save."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from trainer_classification.config import PrepareConfig, TrainConfig
from trainer_classification.console import duration, is_main_process, log
from trainer_classification.data import manifest as manifests
from trainer_classification.data.manifest import Manifest
from trainer_classification.device import choose_device
from trainer_classification.environment import launched
from trainer_classification.loaders.registry import formats_needed
from trainer_classification.optim.lr_schedule import factor
from trainer_classification.optim.parameter_groups import set_learning_rate
from trainer_classification.outputs.tracking import NullTracker, Tracker
from trainer_classification.recipes import recipe_kind
from trainer_classification.training import distributed
from trainer_classification.training import resume as picked
from trainer_classification.training.distributed import World
from trainer_classification.training.epoch import close_epoch, epoch_row, pause
from trainer_classification.training.finish import finish
from trainer_classification.training.metrics import summarize
from trainer_classification.training.run import Run, configuration
from trainer_classification.training.save import save
from trainer_classification.training.start_run import start_run
from trainer_classification.training.step_timer import StepTimer
from trainer_classification.training.torch_compile import BY_COMPILER

SAVE_SECONDS = 120.0  # a killed run loses at most this much
_NOT_FINITE = 20  # steps in a row before a run is given up
_TRACKED = 200  # training scalars of a run


class Stopped(Exception):  # noqa: N818  (a request, no error)
    """SIGTERM or SIGINT came; the checkpoint is written."""

    def __init__(self, code: int, path: Path) -> None:
        super().__init__(f"Stopped; everything is kept. Go on with the same command and --resume {path}")
        self.code = code


def train(config: TrainConfig, process_started: float | None = None) -> dict[str, Any]:
    """Train, and return the summary.

    Args:
        config: what the user asked for.
        process_started: `time.time()` at which the process began, for seconds_first_step.

    Raises:
        ValueError: something that the user can mend.
        Stopped: a signal came; the checkpoint is written.
    """
    started = process_started or time.time()
    with distributed.joined(config, lambda: prepared_folder(config)) as (world, folder):
        return train_prepared(config, folder, manifests.read(folder), started, world)


def prepared_folder(config: TrainConfig) -> Path:
    """Prepare the dataset where that is not done; returns its folder."""
    config = picked.with_its_network(config, picked.find(config)[0])
    from trainer_classification.preparation.pipeline import (
        prepare,  # decoders and polars: not needed on a prepared array
    )

    options = PrepareConfig(
        dataset=config.dataset,
        task=config.task,
        out=config.prepared,
        image_size=config.resize,
        validation_fraction=config.validation_fraction,
        test_fraction=config.test_fraction,
        unknown_folders=config.unknown_folders,
        nested=config.nested,
        path_column=config.path_column,
        label_column=config.label_column,
        split_column=config.split_column,
        on_bad_image=config.on_bad_image,
        workers=config.num_workers,
    )
    device = choose_device(config.device)[0]
    of_loader = formats_needed(config.loader, device)

    def needed(name: str, resized: bool, array_bytes: int) -> tuple[str, ...]:
        """The loader's format, and the array where speednet will whiten its first layer by it."""
        whitens = config.model == "speednet" or recipe_kind(config, name, device.type == "cpu") == "speed"
        return tuple(dict.fromkeys((*of_loader(resized, array_bytes), *(("array",) if whitens else ()))))

    return prepare(options, needed).folder


def train_prepared(
    config: TrainConfig, folder: Path, manifest: Manifest, started: float, world: World | None = None
) -> dict[str, Any]:
    """Train on a prepared dataset; needs torch and numpy alone. As `train`."""
    world, log_dir = world or World(), Path(config.output_dir or ".data")

    def tracker_of() -> Tracker:
        return Tracker(config.project_name, log_dir) if world.main else NullTracker()

    run = start_run(config, folder, manifest, started, world, tracker_of)
    tracker = run.tracker
    tracker.configuration(configuration(run))
    with signals() as received:
        try:
            fit(run, received, started)
            return finish(run, folder, started)
        finally:
            run.close()
            tracker.close()


@contextmanager
def signals() -> Iterator[list[int]]:
    """A list that gets the numbers of the signals SIGTERM and SIGINT; the second SIGINT is an interrupt as ever."""
    received: list[int] = []

    def note(number: int, _: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    end_watch = distributed.start_watchdog(received) if launched() else None
    try:
        yield received
    finally:
        end_watch() if end_watch is not None else None
        for number, handler in before.items():
            signal.signal(number, handler)


def fit(run: Run, received: list[int], started: float) -> None:
    """Train the epochs that are left; evaluate, track and save after each."""
    state = run.state
    while state.epoch < run.epochs:
        before = state.seconds_training, state.seconds_waiting, state.images
        _fit_loader(run)
        first = run.state.step
        points = _train_epoch(run, received, started)
        sums = run.totals.sums.clone()
        run.world.sum(sums)
        trained = summarize(sums)  # waits for the device, so the clock stops after it
        pause(run)
        _check_finite(run)
        close_epoch(run, epoch_row(run, before, trained), points, first)
    run.agree.settle()
    state.finished = True


def _train_epoch(run: Run, received: list[int], started: float) -> list[tuple[int, torch.Tensor]]:
    """Run the steps of an epoch that are left; returns (step, loss) of those to track. The clock runs on.

    Raises:
        Stopped: a signal came to any rank; the checkpoint is written.
    """
    points = []
    run.clock = StepTimer(run.device)
    run.clock.start()
    saved = looked = time.monotonic()
    for loss in _steps(run, run.state.epoch):
        if run.state.seconds_first_step == 0:
            _first_step(run, loss, started)
        if (run.done - 1) % max(1, run.total // _TRACKED) == 0:
            points.append((run.done - 1, loss))
        if _due(run, looked):
            looked = time.monotonic()
            _look(run, run.state.epoch)
        wish = 128 + received[0] if received else int(time.monotonic() - saved > SAVE_SECONDS)
        saved = time.monotonic() if wish else saved
        if agreed := run.agree(wish):
            pause(run)
            save(run, "last.pth")
            run.clock.start()
            if agreed > 1:
                raise Stopped(agreed, run.tracker.checkpoint_dir / "last.pth")
    return points


def _fit_loader(run: Run) -> None:
    """Open the loader anew where this epoch's images have another size."""
    if run.image_size != run.opened_size:
        run.train_loader.close()
        run.train_loader, _ = run.open_train(run.image_size)
        run.opened_size = run.image_size
        log(f"Images of {run.image_size} px from here on.")


def _first_step(run: Run, loss: torch.Tensor, started: float) -> None:
    """Note how long the user waited for the first step, and what it took by itself: compilation, tuning."""
    loss.item()
    run.state.seconds_first_step = time.time() - started
    run.state.seconds_in_first_step = run.clock.now - run.clock.waiting
    if run.config.compile in BY_COMPILER:
        log(f"The first step took {run.state.seconds_in_first_step:.1f} s with --compile {run.config.compile}.")


def _steps(run: Run, epoch: int) -> Iterator[torch.Tensor]:
    """Run the steps of an epoch that are left; yields the loss of each."""
    batches = run.train_loader.epoch(epoch, run.state.step)
    while run.state.step < run.steps:
        run.clock.ask()
        batch = next(batches)
        run.clock.got()
        share = factor(run.done, run.total, run.recipe.schedule, run.recipe.warmup_fraction)
        set_learning_rate(run.step.optimizer, run.recipe.learning_rate * share)
        loss = run.step(batch, run.done, run.totals)
        run.clock.stepped()
        run.state.step += 1
        run.state.images += len(batch.labels) * run.world.size
        yield loss


def _due(run: Run, looked: float) -> bool:
    """Whether the live line is to be drawn: every log_interval steps, or about once a second."""
    if run.config.log_interval:
        return run.state.step % run.config.log_interval == 0
    return time.monotonic() - looked > 1


def _look(run: Run, epoch: int) -> None:
    """The one place within an epoch that waits for the device: the live line, and whether the loss is finite."""
    _check_finite(run)
    if not sys.stderr.isatty() or not is_main_process():
        return
    loss, accuracy, images, _ = run.totals.read()  # of rank 0's share
    seconds = run.clock.now
    left = (run.total - run.done) * seconds / max(1, images / run.train_loader.schedule.rows)
    images *= run.world.size
    sys.stderr.write(
        f"\r\x1b[Kepoch {epoch + 1}/{run.epochs} step {run.state.step}/{run.steps}  loss {loss:.4f}  "
        f"accuracy {accuracy:.2%}  {images / seconds:,.0f} img/s  data-wait {run.clock.waiting / seconds:.1%}  "
        f"{duration(left)} left"
    )
    sys.stderr.flush()


def _check_finite(run: Run) -> None:
    if int(run.totals.not_finite) >= _NOT_FINITE:
        raise ValueError(
            f"The loss was not finite in {int(run.totals.not_finite)} steps in a row. Try a lower --learning-rate (it "
            f"is {run.recipe.learning_rate:g}), a longer --warmup-fraction, or --amp off."
        )
