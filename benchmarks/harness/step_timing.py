"""Training steps as contestants: with a cached batch, and fed by a loader."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import count
from typing import Any

import torch

from harness.delivery import Delivery
from harness.own_loaders import Engine
from harness.vendor_defaults import OwnOrder
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

_MACS_ON_CPU = 5e9  # multiply-adds of a batch, forward: steps of a third of a second, as images a second differ little


def fitted(workload: Workload) -> Workload:
    """The recipe's batch; on a CPU one whose step takes a fraction of a second."""
    size, recipe = workload.recipe.batch_size, workload.recipe
    if workload.where.type == "cpu":
        network = build(recipe.model, 10, workload.manifest.channels, workload.image_size, recipe.width)
        macs = count_macs(network, workload.manifest.channels, workload.image_size)
        size = max(1, min(size, int(_MACS_ON_CPU / macs)))
    return dataclasses.replace(workload, batch_size=size)


class Trainer:
    """The recipe's network and step, as `training/setup.py` builds them."""

    def __init__(self, workload: Workload) -> None:
        of, recipe, device = workload.manifest, workload.recipe, workload.where
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True
        torch.set_num_threads(workload.threads)
        model = build(recipe.model, len(of.class_names), of.channels, workload.image_size, recipe.width).to(device)
        average = ModelEma(model, recipe.ema) if recipe.ema else None
        normalize = Normalize(of.mean, of.std, device)
        dtype = choose_precision(device, "auto")[0]
        kind = CudaGraphStep if device.type == "cuda" else Step
        self.step = kind(
            model,
            build_optimizer(model, recipe),
            normalize,
            label_smoothing=recipe.label_smoothing,
            dtype=dtype,
            ema=average,
        )
        self.totals, self.numbers = Metrics(device), count()

    def train(self, batch: Batch) -> Delivery:
        """One step."""
        self.step(batch, next(self.numbers), self.totals)
        return Delivery(batch.count)


class Steps(OwnOrder):
    """Steps without end; an epoch is one of them on a CPU, many on a GPU.

    Args:
        workload: gives network, batch and device.
        loader: feeds them; "" for the same batch again and again.
    """

    def __init__(self, workload: Workload, loader: str = "") -> None:
        self.files: list[str] = []
        self.trainer = Trainer(workload)
        self.engine = Engine(loader or "resident", workload)
        self.steps = 50 if workload.where.type == "cuda" else 1
        self.clock = StepTimer(workload.where)
        self.batches = _endless(self.engine)
        if not loader:
            cached = dataclasses.replace(next(self.batches))
            cached.images, cached.labels = cached.images.clone(), cached.labels.clone()
            self.batches = (cached for _ in count())

    def epoch(self, number: int) -> Iterator[Delivery]:
        """The next of them."""
        for _ in range(self.steps):
            self.clock.request_batch()
            batch = next(self.batches)
            self.clock.receive_batch()
            done = self.trainer.train(batch)
            self.clock.record_step()
            yield done

    @property
    def waited(self) -> float:
        """Seconds in which the device had nothing to do but to wait for a batch, so far."""
        return self.clock.waiting

    def close(self) -> None:
        """End the loader."""
        self.engine.close()


def _endless(engine: Engine) -> Iterator[Batch]:
    for number in count():
        yield from engine.loader.epoch(number)


def cached(workload: Workload) -> Steps:
    """The headspace: a step whose batch costs nothing."""
    return Steps(fitted(workload))


def full(loader: str, workload: Workload) -> Any:
    """Training as it is, fed by a loader."""
    return Steps(fitted(workload), loader)
