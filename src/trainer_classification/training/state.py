"""Hold everything about a run that changes while it trains, beside model and optimizer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from trainer_classification.checkpoint.meta import Progress
from trainer_classification.loaders.base import Loader
from trainer_classification.training.idle_threads import IdleThreads
from trainer_classification.training.metrics import Metrics
from trainer_classification.training.setup import Setup
from trainer_classification.training.step_timer import StepTimer


@dataclass(kw_only=True)
class State(Progress):
    """The progress of a run, which checkpoints keep, and what this process needs to go on.

    Attributes:
        started: `time.monotonic()` at which the command started, moved back by the
            time of earlier runs that were resumed.
        metrics: of the epoch that runs.
        timer: of the epoch that runs.
        train_loader: delivers the batches of the epoch that runs.
        loader_size: side of its images in px.
        idle_threads: looks between steps whether others need the CPUs.
    """

    started: float
    metrics: Metrics
    timer: StepTimer
    train_loader: Loader
    loader_size: int
    idle_threads: IdleThreads

    @property
    def progress(self) -> Progress:
        """A copy of what checkpoints keep."""
        return Progress(
            **{entry.name: getattr(self, entry.name) for entry in dataclasses.fields(Progress)}
        )

    def restore_progress(self, progress: Progress) -> None:
        """Continue where a checkpoint was written."""
        for entry in dataclasses.fields(Progress):
            setattr(self, entry.name, getattr(progress, entry.name))
        self.started -= progress.seconds_spent

    def reopen_loader(self, setup: Setup, image_size: int) -> None:
        """Open the training loader for images of another size; nothing happens if they have it already."""
        if image_size == self.loader_size:
            return
        self.train_loader.close()
        self.train_loader = setup.open_train_loader(image_size)
        self.loader_size = image_size

    def pause_timer(self, setup: Setup) -> None:
        """Stop the timer, add its seconds to the progress, and replace it."""
        self.timer.stop()
        self.seconds_training += self.timer.training
        self.seconds_waiting += self.timer.waiting
        self.timer = StepTimer(setup.device)

    def close(self) -> None:
        """Close the training loader, and end the threads."""
        self.train_loader.close()
        self.idle_threads.close()


def create_state(setup: Setup, progress: Progress | None = None) -> State:
    """Create the state of a run before its first step.

    Args:
        setup: of the run.
        progress: with the epochs that a budget planned; None: the recipe's.
    """
    progress = progress or Progress()
    image_size = setup.image_size(progress)

    return State(
        **dataclasses.asdict(progress),
        started=setup.inputs.started,
        metrics=Metrics(setup.device),
        timer=StepTimer(setup.device),
        train_loader=setup.open_train_loader(image_size),
        loader_size=image_size,
        idle_threads=IdleThreads(setup.device),
    )
