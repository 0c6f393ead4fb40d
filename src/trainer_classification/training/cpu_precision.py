"""Choose the precision of a CPU: bf16 where a measurement of this network on this machine says that it is faster."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

from trainer_classification.config import TrainConfig
from trainer_classification.console import log
from trainer_classification.data.manifest import Manifest
from trainer_classification.device import cpu_model, has_bf16_cpu
from trainer_classification.files import write_atomically
from trainer_classification.loaders.base import Batch
from trainer_classification.models import build
from trainer_classification.models.normalize import Normalize
from trainer_classification.optim.parameter_groups import build_optimizer, set_learning_rate
from trainer_classification.recipes import Recipe
from trainer_classification.training.distributed import World
from trainer_classification.training.metrics import Metrics
from trainer_classification.training.resolve import Resolved, complete_recipe
from trainer_classification.training.step import Step

_FASTER = 1.1  # by which bf16 must be faster to be taken: less is within the noise
_ROUNDS = 3  # of each precision, in turns, after a first one that allocates
_PIXELS = 1 << 19  # in a measured batch: enough to say what a whole one would
_LEAST_ROWS = 16

Run = Callable[[torch.dtype | None], object]
Choice = tuple[torch.dtype | None, str]


def complete_precision(
    config: TrainConfig, resolved: Resolved, manifest: Manifest, world: World
) -> Resolved:
    """Return the decisions with the precision of a CPU, which rank 0 chooses for all.

    A run that goes on keeps the precision it began with. With a frozen backbone only
    its features are computed, and `FrozenNetwork` chooses.

    Args:
        config: what the user asked for.
        resolved: the decisions.
        manifest: of the prepared dataset.
        world: the processes that train.

    Raises:
        ValueError: an option does not fit the dataset.
    """
    if resolved.device.type != "cpu" or config.amp != "auto":
        return resolved

    def choose() -> Choice:
        meta = resolved.start.kept_meta
        kept = "" if meta is None else meta.cpu_precision
        if kept:
            return _dtype(kept), f"{kept}: that of the checkpoint"
        if resolved.freezes or not has_bf16_cpu():
            return resolved.dtype, resolved.dtype_reason
        recipe, _ = complete_recipe(config, resolved, manifest)
        run = partial(_run_step, _build_steps(recipe, manifest))
        return choose_faster(_describe_network(recipe, manifest), run)

    dtype, reason = world.broadcast_object(choose)
    if reason != resolved.dtype_reason and (has_bf16_cpu() or dtype is not None):
        log(f"Precision: {reason}.")
    return dataclasses.replace(resolved, dtype=dtype, dtype_reason=reason)


def choose_faster(network: str, run: Run) -> Choice:
    """Return bf16 where a call is faster in it than in fp32, else None; and the reason, with the ratio.

    Args:
        network: what is run, as a name for the measurement, which is kept.
        run: takes the dtype of autocast; None: none.
    """
    ratio = _measured_ratio(network, run)
    if ratio > _FASTER:
        return torch.bfloat16, f"bf16: {ratio:.2f} times as fast as fp32 on this CPU"
    return None, f"fp32: bf16 is {ratio:.2f} times as fast on this CPU"


def name_precision(dtype: torch.dtype | None) -> str:
    """Return the name of a precision: float32, bfloat16 or float16."""
    return str(dtype or torch.float32).removeprefix("torch.")


def _dtype(name: str) -> torch.dtype | None:
    """Return the dtype of autocast for the name of a precision."""
    return torch.bfloat16 if name == "bfloat16" else None


def _measured_ratio(network: str, run: Run) -> float:
    """Return how many times as fast bf16 is as fp32, as measured now or before on this machine."""
    key = f"{cpu_model()}; torch {torch.__version__}; {torch.get_num_threads()} threads; {network}"
    path = _file()
    known: dict[str, float] = {}
    with suppress(OSError, ValueError, TypeError):
        known = dict(json.loads(path.read_text(encoding="utf-8")))
    ratio = known.get(key)
    if isinstance(ratio, float):
        return ratio

    known[key] = ratio = _measure_ratio(run)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(known, indent=1))
    return ratio


def _file() -> Path:
    """Return the file of the ratios that were measured on this machine."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "trainer-classification" / "cpu-precision.json"


def _measure_ratio(run: Run) -> float:
    """Time a call in both precisions in turns, and return the ratio of the shortest times."""
    precisions = (None, torch.bfloat16)
    seconds: dict[torch.dtype | None, list[float]] = {dtype: [] for dtype in precisions}
    for _ in range(1 + _ROUNDS):
        for dtype in precisions:
            started = time.perf_counter()
            run(dtype)
            seconds[dtype].append(time.perf_counter() - started)

    return min(seconds[None][1:]) / min(seconds[torch.bfloat16][1:])


def _describe_network(recipe: Recipe, manifest: Manifest) -> str:
    """Return all that the time of a step depends on."""
    return (
        f"{recipe.model} of width {recipe.width}, {recipe.image_size} px, {manifest.channels} channels, "
        f"{len(manifest.class_names)} classes, batch {recipe.batch_size}, {recipe.optimizer}"
    )


def _build_steps(
    recipe: Recipe, manifest: Manifest
) -> tuple[dict[torch.dtype | None, Step], Batch]:
    """Return a step in each precision over one random model, which they leave as it is, and a batch."""
    device = torch.device("cpu")
    side = recipe.image_size
    classes = len(manifest.class_names)
    rows = min(recipe.batch_size, max(_LEAST_ROWS, _PIXELS // side**2))
    with torch.random.fork_rng(devices=[]):
        model = build(recipe.model, classes, manifest.channels, side, recipe.width).train()
        images = torch.randint(256, (rows, side, side, manifest.channels), dtype=torch.uint8)
        labels = torch.randint(classes, (rows,))
    optimizer = build_optimizer(model, recipe)
    set_learning_rate(optimizer, 0.0)
    normalize = Normalize(manifest.mean, manifest.std, device)
    steps = {
        dtype: Step(model, optimizer, normalize, dtype=dtype) for dtype in (None, torch.bfloat16)
    }

    return steps, Batch(images, labels, torch.arange(rows), rows)


def _run_step(
    steps: tuple[dict[torch.dtype | None, Step], Batch], dtype: torch.dtype | None
) -> None:
    by_precision, batch = steps
    by_precision[dtype](batch, 0, Metrics(torch.device("cpu")))
