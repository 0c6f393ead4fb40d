"""Choose the precision of a CPU: bf16 where a measurement of this network on this machine says that it is faster."""

from __future__ import annotations

import dataclasses
from functools import partial

import torch

from trainer_classification.config import TrainConfig
from trainer_classification.console import log
from trainer_classification.data.manifest import Manifest
from trainer_classification.device import has_bf16_cpu
from trainer_classification.faster_precision import (
    Choice,
    choose_faster,
    dtype_of_precision,
    forward_pass,
)
from trainer_classification.loaders.base import Batch
from trainer_classification.models import build
from trainer_classification.models.backbone import split_head
from trainer_classification.models.normalize import Normalize
from trainer_classification.optim.parameter_groups import build_optimizer, set_learning_rate
from trainer_classification.recipes import Recipe
from trainer_classification.training.distributed import World
from trainer_classification.training.features import CPU_BATCH
from trainer_classification.training.metrics import Metrics
from trainer_classification.training.resolve import Resolved, complete_recipe
from trainer_classification.training.step import Step

_PIXELS = 1 << 19  # in a measured batch: enough to say what a whole one would
_LEAST_ROWS = 16


def complete_precision(
    config: TrainConfig, resolved: Resolved, manifest: Manifest, world: World
) -> Resolved:
    """Return the decisions with the precision of a CPU, which rank 0 chooses for all.

    A run that goes on keeps the precision it began with. Of a frozen backbone, whose
    features are all that is computed, a forward pass is measured, else a step.

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
            return dtype_of_precision(kept), f"{kept}: that of the checkpoint"
        if not has_bf16_cpu():
            return resolved.dtype, resolved.dtype_reason
        recipe, _ = complete_recipe(config, resolved, manifest)
        if recipe.freeze == "backbone":
            return _choose_for_features(recipe, manifest)
        run = partial(_run_step, _build_steps(recipe, manifest))
        return choose_faster(_describe_network(recipe, manifest), run)

    dtype, reason = world.broadcast_object(choose)
    if reason != resolved.dtype_reason and (has_bf16_cpu() or dtype is not None):
        log(f"Precision: {reason}.")
    return dataclasses.replace(resolved, dtype=dtype, dtype_reason=reason)


def _choose_for_features(recipe: Recipe, manifest: Manifest) -> Choice:
    """Choose by a forward pass of a random network without its head."""
    side = recipe.image_size
    with torch.random.fork_rng(devices=[]):
        model = build(
            recipe.model, len(manifest.class_names), manifest.channels, side, recipe.width
        )
    backbone, _ = split_head(model, recipe.model)
    shape = (CPU_BATCH, manifest.channels, side, side)
    name = f"folded {recipe.model} without head, {list(shape)}"

    return choose_faster(name, forward_pass(backbone, shape))


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
    normalize = Normalize(manifest.mean, manifest.std, device)
    steps: dict[torch.dtype | None, Step] = {}
    for dtype in (None, torch.bfloat16):
        optimizer = build_optimizer(model, recipe, dtype)
        set_learning_rate(optimizer, 0.0)
        steps[dtype] = Step(model, optimizer, normalize, dtype=dtype)

    return steps, Batch(images, labels, torch.arange(rows), rows)


def _run_step(
    steps: tuple[dict[torch.dtype | None, Step], Batch], dtype: torch.dtype | None
) -> None:
    by_precision, batch = steps
    by_precision[dtype](batch, 0, Metrics(torch.device("cpu")))
