"""Run steps of one network in a process of its own, with the package that PYTHONPATH names.

Each line on stdin is the name of a case, or `operators` and a name. The answer is a
line of JSON: CPU seconds of one step, or the share of each operator in it. The name
of a case in bf16 ends with `IN_BF16`.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer_classification import recipes
from trainer_classification.environment import keep_freed_memory
from trainer_classification.loaders.base import Batch
from trainer_classification.models import build
from trainer_classification.models.backbone import split_head
from trainer_classification.models.normalize import Normalize
from trainer_classification.optim.ema import ModelEma
from trainer_classification.optim.parameter_groups import build_optimizer, set_learning_rate
from trainer_classification.training import setup
from trainer_classification.training.metrics import Metrics
from trainer_classification.training.step import Step

IN_BF16 = ", bf16"  # by autocast, as `--amp bf16`
_CPU = torch.device("cpu")
_SECONDS = 0.5  # of steps that are timed at once, at least
_PROFILED = 3  # steps
_FROZEN_SIDE = 224  # px


@dataclass(frozen=True)
class Case:
    """A step to time.

    Attributes:
        recipe: of the training; None: the frozen EfficientNet-Lite0, forward only.
        side: of the images in px.
        channels: of the images.
        rows: images of a batch; by less than the recipe's a step is as slow for each image.
        classes: of the dataset.
    """

    recipe: recipes.Recipe | None
    side: int
    channels: int
    rows: int
    classes: int = 100


# Not the recipe's own network, which commits before it do not have
_SMALL = dataclasses.replace(recipes.RECIPES["mnist"], model="resnet-small")
CASES = {
    "resnet-small, 28 px": Case(_SMALL, 28, 1, 128, 10),
    "resnet-small, 32 px": Case(_SMALL, 32, 3, 128, 10),
    "speednet, 32 px": Case(recipes.SPEED_RECIPES["cifar100"], 32, 3, 64),
    "resnet18, 32 px": Case(recipes.RECIPES["cifar100"], 32, 3, 16),
    "resnet18, 128 px": Case(recipes.RECIPES["caltech-101"], 128, 3, 8),
    "frozen efficientnet-lite0, 224 px": Case(None, _FROZEN_SIDE, 3, 16),
}


def open_case(case: Case, dtype: torch.dtype | None) -> Callable[[], object]:
    """Return a function that runs a step.

    Args:
        case: the step.
        dtype: of autocast; None: none.
    """
    torch.manual_seed(0)
    shape = (case.rows, case.side, case.side, case.channels)
    images = torch.randint(256, shape, dtype=torch.uint8)
    normalize = Normalize([0.5] * case.channels, [0.3] * case.channels, _CPU)
    if case.recipe is None:
        keep_freed_memory()
        network = build("efficientnet-lite0", case.classes, case.channels, case.side)
        backbone, _ = split_head(network, "efficientnet-lite0")

        @torch.inference_mode()
        def run() -> Tensor:
            with torch.autocast("cpu", dtype, enabled=dtype is not None):
                return backbone(normalize(images))

        return run

    recipe = dataclasses.replace(case.recipe, image_size=case.side)
    model = build(recipe.model, case.classes, case.channels, case.side, recipe.width).train()
    optimizer = build_for(model, recipe, dtype)
    set_learning_rate(optimizer, recipe.learning_rate / 100)
    step = Step(
        model,
        optimizer,
        normalize,
        dtype=dtype,
        label_smoothing=recipe.label_smoothing,
        ema=ModelEma(model, recipe.ema) if recipe.ema else None,
    )
    metrics = Metrics(_CPU)
    labels = torch.randint(case.classes, (case.rows,))
    batch = Batch(images, labels, torch.arange(case.rows), case.rows)
    return lambda: step(batch, 0, metrics)


def build_for(model: nn.Module, recipe: recipes.Recipe, dtype: torch.dtype | None) -> Optimizer:
    """Return the optimizer, for a precision where the package's takes one: commits before did not."""
    try:
        return build_optimizer(model, recipe, dtype)
    except TypeError:
        return build_optimizer(model, recipe)


def time_step(run: Callable[[], object]) -> float:
    """Return the CPU seconds of a step, after one that is not timed: others ran in between."""
    run()
    steps = 0
    started = time.process_time()
    while time.process_time() - started < _SECONDS:
        run()
        steps += 1
    return (time.process_time() - started) / steps


def share_operators(run: Callable[[], object]) -> dict[str, float]:
    """Return the share of each operator in the time of some steps."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(_PROFILED):
            run()
    events = profile.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    return {event.key: event.self_cpu_time_total / total for event in events}


def main() -> None:
    torch.set_num_threads(1)
    if hasattr(setup, "keep_freed_memory"):  # commits before it train without
        keep_freed_memory()
    opened: dict[str, Callable[[], object]] = {}
    for line in sys.stdin:
        what, _, name = line.strip().rpartition("operators ")
        name = name or what
        if name not in opened:
            dtype = torch.bfloat16 if name.endswith(IN_BF16) else None
            opened[name] = open_case(CASES[name.removesuffix(IN_BF16)], dtype)
            opened[name]()
        run = opened[name]
        answer = share_operators(run) if line.startswith("operators ") else time_step(run)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
