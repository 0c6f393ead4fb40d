"""Training steps as candidates: with a cached batch, and fed by a loader."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import count

import torch

from harness.delivery import Delivery
from harness.own_loaders import Engine
from harness.vendor_defaults import SelfShuffling
from harness.workload import Workload
from trainer_classification.device import choose_precision
from trainer_classification.loaders.base import Batch
from trainer_classification.models import build, count_macs
from trainer_classification.models.normalize import Normalize
from trainer_classification.optim.ema import ModelEma
from trainer_classification.optim.parameter_groups import build_optimizer
from trainer_classification.training.cuda_graph import CudaGraphStep
from trainer_classification.training.metrics import Metrics
from trainer_classification.training.step import Step
from trainer_classification.training.step_timer import StepTimer

# Multiply-adds of a forward pass on a CPU: a step of a third of a second. The
# images a second hardly depend on it.
_MACS_ON_CPU = 5e9
_STEPS_ON_GPU = 50  # steps of an epoch


def fit_batch_size(workload: Workload) -> Workload:
    """Return the workload with the recipe's batch size, or on a CPU one whose step takes a fraction of a second."""
    recipe = workload.recipe
    channels = workload.manifest.channels
    size = recipe.batch_size
    if workload.torch_device.type == "cpu":
        network = build(recipe.model, 10, channels, workload.image_size, recipe.width)
        macs = count_macs(network, channels, workload.image_size)
        size = max(1, min(size, int(_MACS_ON_CPU / macs)))
    return dataclasses.replace(workload, batch_size=size)


class Trainer:
    """The network and the step of the recipe, as training builds them."""

    def __init__(self, workload: Workload) -> None:
        manifest = workload.manifest
        recipe = workload.recipe
        device = workload.torch_device
        classes = len(manifest.class_names)
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True
        torch.set_num_threads(workload.threads)

        model = build(
            recipe.model, classes, manifest.channels, workload.image_size, recipe.width
        ).to(device)
        average = ModelEma(model, recipe.ema) if recipe.ema else None
        normalize = Normalize(manifest.mean, manifest.std, device)
        dtype = choose_precision(device, "auto")[0]
        step_class = CudaGraphStep if device.type == "cuda" else Step
        optimizer = build_optimizer(model, recipe)
        self.step = step_class(
            model,
            optimizer,
            normalize,
            label_smoothing=recipe.label_smoothing,
            dtype=dtype,
            ema=average,
        )
        self.totals = Metrics(device)
        self.numbers = count()

    def train(self, batch: Batch) -> Delivery:
        """Run one step."""
        self.step(batch, next(self.numbers), self.totals)
        return Delivery(batch.count)


class Steps(SelfShuffling):
    """Train without end. An epoch is one step on a CPU, and many on a GPU.

    Args:
        workload: gives the network, the batch size and the device.
        engine: the loader that feeds the steps. Empty: the same batch again and
            again.
    """

    def __init__(self, workload: Workload, engine: str = "") -> None:
        self.files: list[str] = []
        self.trainer = Trainer(workload)
        self.engine = Engine(engine or "resident", workload)
        self.steps = _STEPS_ON_GPU if workload.torch_device.type == "cuda" else 1
        self.clock = StepTimer(workload.torch_device)
        self.batches = _repeat_epochs(self.engine)
        if not engine:
            cached = dataclasses.replace(next(self.batches))
            cached.images = cached.images.clone()
            cached.labels = cached.labels.clone()
            self.batches = (cached for _ in count())

    def epoch(self, number: int) -> Iterator[Delivery]:
        """Run the next steps."""
        for _ in range(self.steps):
            self.clock.request_batch()
            batch = next(self.batches)
            self.clock.receive_batch()
            done = self.trainer.train(batch)
            self.clock.record_step()
            yield done

    @property
    def waited(self) -> float:
        """Seconds so far in which the device had nothing to do, waiting for a batch."""
        return self.clock.waiting

    def close(self) -> None:
        """Close the loader."""
        self.engine.close()


def _repeat_epochs(engine: Engine) -> Iterator[Batch]:
    for number in count():
        yield from engine.loader.epoch(number)


def open_cached_step(workload: Workload) -> Steps:
    """Open steps whose batch costs nothing."""
    return Steps(fit_batch_size(workload))


def open_training(engine: str, workload: Workload) -> Steps:
    """Open steps that a loader feeds."""
    return Steps(fit_batch_size(workload), engine)
