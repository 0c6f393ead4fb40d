"""A training put together: device, precision, recipe, loaders, model, optimizer; and where it stands."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from trainer_classification import recipes
from trainer_classification.config import TrainConfig
from trainer_classification.data import array
from trainer_classification.data.manifest import Manifest
from trainer_classification.loaders.base import Loader
from trainer_classification.loaders.select import open_loader
from trainer_classification.models import build
from trainer_classification.outputs.tracking import Tracker
from trainer_classification.plan import Plan
from trainer_classification.recipes import Recipe
from trainer_classification.training.ema import Average
from trainer_classification.training.first_weights import whiten_first_layer
from trainer_classification.training.live import Clock, say
from trainer_classification.training.optimizers import build_optimizer
from trainer_classification.training.step import Normalise, Step, Totals, choose_device, precision

_DRY_STEPS = 2


@dataclass
class Run:
    """All that a training consists of."""

    config: TrainConfig
    recipe: Recipe
    manifest: Manifest
    device: torch.device
    dtype: torch.dtype | None
    tracker: Tracker
    train_loader: Loader
    validation_loader: Loader | None
    step: Step
    normalise: Normalise
    state: State
    totals: Totals
    clock: Clock = field(default_factory=Clock)
    loader_reason: str = ""

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        limit = _DRY_STEPS if self.config.stop_early else self.config.max_steps_per_epoch
        return min(self.train_loader.steps, limit) if limit else self.train_loader.steps

    @property
    def epochs(self) -> int:
        """Epochs of the run."""
        return 1 if self.config.stop_early else self.recipe.epochs

    @property
    def evaluated(self) -> torch.nn.Module:
        """The model that is evaluated and kept: the average where there is one."""
        return self.step.average.model if self.step.average is not None else self.step.model


@dataclass
class State:
    """Where a run stands, as checkpoints keep it beside the tensors."""

    epoch: int = 0
    step: int = 0
    best: float = -1.0
    finished: bool = False
    seconds_training: float = 0.0
    seconds_waiting: float = 0.0
    images: int = 0
    seconds_first_step: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


def build_run(config: TrainConfig, folder: Path, manifest: Manifest, tracker: Tracker) -> Run:
    """Choose device, precision and recipe, and build loaders, model and optimizer; says each choice in a line."""
    device, device_reason = choose_device(config.device)
    dtype, precision_reason = precision(device, config.amp)
    count = manifest.splits["train"].count
    recipe, recipe_reason = recipes.recipe_for(
        manifest.dataset,
        manifest.train_size,
        manifest.channels,
        count,
        manifest.resized,
        recipes.recipe_kind(config, manifest.dataset, device.type == "cpu"),
    )
    recipe = recipes.resolve(config, recipe)
    say(f"Device: {device} ({device_reason}); {precision_reason}.")
    say(f"Recipe: {recipe_reason}; {recipe.model}, {recipe.image_size} px, {recipe.epochs} epochs of {count:,} images.")
    store = array.open_array(folder, manifest, "train")
    plan = Plan(count, config.seed, recipe.policy, store.sizes)
    common: dict[str, Any] = {
        "loader": config.loader,
        "batch_size": recipe.batch_size,
        "image_size": recipe.image_size,
        "device": device,
        "threads": config.num_workers,
    }
    train_loader, loader_reason = open_loader(folder, manifest, "train", plan=plan, **common)
    say(f"Loader: {loader_reason}.")
    validation = "validation" in manifest.splits
    validation_loader = open_loader(folder, manifest, "validation", plan=None, **common)[0] if validation else None
    torch.manual_seed(config.seed)
    torch.backends.cudnn.benchmark = True
    model = build(recipe.model, len(manifest.class_names), manifest.channels, recipe.image_size, recipe.width)
    whiten_first_layer(model, store, manifest, plan)
    model = model.to(device)
    normalise = Normalise(manifest.mean, manifest.std, device)
    average = Average(model, recipe.ema) if recipe.ema else None
    optimizer = build_optimizer(model, recipe)
    return Run(
        config,
        recipe,
        manifest,
        device,
        dtype,
        tracker,
        train_loader,
        validation_loader,
        Step(model, optimizer, normalise, recipe.label_smoothing, dtype, average),
        normalise,
        State(),
        Totals(device),
        loader_reason=loader_reason,
    )


def configuration(run: Run) -> dict[str, Any]:
    """The options, and what the recipe made of them, as JSON types."""
    recipe = dataclasses.asdict(run.recipe)
    policy = {f"augment_{name}": value for name, value in recipe.pop("policy").items()}
    chosen = {f"recipe_{name}": value for name, value in (recipe | policy).items()}
    return dataclasses.asdict(run.config) | chosen | {"manifest_fingerprint": run.manifest.fingerprint}
