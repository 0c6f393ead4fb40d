"""Time a step of MNIST's recipe in fp32, and in the precision that `--amp auto` takes on this CPU."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import torch

from trainer_classification import faster_precision, recipes
from trainer_classification.training import cpu_precision

_ROUNDS = 5


def time_auto() -> tuple[float, float]:
    """Return the seconds of the shortest step in the precision that auto takes, and in fp32, in turns.

    The choice is measured anew: one that was kept may be of a busy moment.
    """
    recipe, _ = recipes.recipe_for("mnist", 28, 1, 60_000, False)
    manifest: Any = SimpleNamespace(
        class_names=list("0123456789"), channels=1, mean=[0.13], std=[0.31]
    )
    steps = cpu_precision._build_steps(recipe, manifest)
    ratio = faster_precision._measure_ratio(lambda dtype: cpu_precision._run_step(steps, dtype))
    chosen = torch.bfloat16 if ratio > faster_precision._FASTER else None

    seconds: dict[torch.dtype | None, list[float]] = {chosen: [], None: []}
    for _ in range(_ROUNDS):
        for dtype, taken in seconds.items():
            started = time.perf_counter()
            cpu_precision._run_step(steps, dtype)
            taken.append(time.perf_counter() - started)

    return min(seconds[chosen]), min(seconds[None])
