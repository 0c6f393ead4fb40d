"""A training put together: device, precision, recipe, loaders, model, optimizer; and where it stands."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from trainer_classification import recipes
from trainer_classification.augment.mixup import Mixing
from trainer_classification.config import TrainConfig
from trainer_classification.console import log
from trainer_classification.data.manifest import Manifest
from trainer_classification.data.table import open_table
from trainer_classification.device import choose_device, precision
from trainer_classification.loaders.base import Loader
from trainer_classification.loaders.registry import open_loader
from trainer_classification.models.normalize import Normalize
from trainer_classification.models.speednet import least_side
from trainer_classification.optim.ema import ModelEma
from trainer_classification.optim.parameter_groups import build_optimizer
from trainer_classification.outputs.tracking import Tracker
from trainer_classification.plan import Plan
from trainer_classification.recipes import Recipe
from trainer_classification.training import progressive
from trainer_classification.training.cuda_graph import CudaGraphStep
from trainer_classification.training.distributed import StopConsensus, World
from trainer_classification.training.initial_weights import build_initial_model
from trainer_classification.training.metrics import Metrics
from trainer_classification.training.step import Step
from trainer_classification.training.step_timer import StepTimer
from trainer_classification.training.torch_compile import compiled, mode_of
from trainer_classification.training.tta import check_views

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
    open_train: Callable[[int], tuple[Loader, str]]  # by image size
    train_loader: Loader
    validation_loader: Loader | None
    step: Step
    normalize: Normalize
    state: State
    totals: Metrics
    world: World
    agree: StopConsensus
    opened_size: int  # side in px of train_loader's images
    budget_controller: Callable[[Run, float, int], None] | None = None  # after each epoch, with seconds and steps of it
    began: float = field(default_factory=time.time)  # of the command, moved back by runs before a resume
    clock: StepTimer = field(init=False)
    loader_reason: str = ""

    def __post_init__(self) -> None:
        self.clock = StepTimer(self.device)

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        limit = _DRY_STEPS if self.config.stop_early else self.state.limit or self.config.max_steps_per_epoch
        return min(self.train_loader.steps, limit) if limit else self.train_loader.steps

    @property
    def epochs(self) -> int:
        """Epochs of the run."""
        return 1 if self.config.stop_early else self.state.epochs or self.recipe.epochs

    @property
    def done(self) -> int:
        """Steps taken since the beginning."""
        return self.state.before + self.state.step

    @property
    def total(self) -> int:
        """Steps from the beginning to the end, as far as is planned."""
        return self.state.before + (self.epochs - self.state.epoch) * self.steps

    @property
    def image_size(self) -> int:
        """Side in px of the images of this epoch."""
        recipe = self.recipe
        return progressive.image_size(self.state.epoch, self.epochs, recipe.progressive, recipe.image_size)

    def close(self) -> None:
        """Close the loaders."""
        self.train_loader.close()
        if self.validation_loader is not None:
            self.validation_loader.close()

    @property
    def evaluated(self) -> torch.nn.Module:
        """The model that is evaluated and kept: the average where there is one."""
        return self.step.average.model if self.step.average is not None else self.step.model


@dataclass
class State:
    """Where a run stands, as checkpoints keep it beside the tensors.

    Attributes:
        epoch, step: done, and in this epoch.
        before: steps in the epochs that are done.
        epochs, limit: of the run, and steps an epoch, where a budget plans them; 0: the recipe's.
        spent: seconds from the beginning of the command to the checkpoint, runs before it included.
        times: fields of `timing.Times`, as a budget's plan believes in them.
    """

    epoch: int = 0
    step: int = 0
    before: int = 0
    epochs: int = 0
    limit: int = 0
    spent: float = 0.0
    times: tuple[float, ...] = ()
    best: float = -1.0
    finished: bool = False
    seconds_training: float = 0.0
    seconds_waiting: float = 0.0
    images: int = 0
    seconds_first_step: float = 0.0
    seconds_in_first_step: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


def build_run(
    config: TrainConfig, folder: Path, manifest: Manifest, tracker: Tracker, world: World | None = None
) -> Run:
    """Choose device, precision and recipe, and build loaders, model and optimizer; says each choice in a line."""
    world = world or World()
    device, dtype = _device(config, world)
    recipe = _recipe(config, manifest, device)
    count = manifest.splits["train"].count
    plan = Plan(count, config.seed, recipe.policy, open_table(folder, manifest, "train").sizes)
    common: dict[str, Any] = {
        "loader": config.loader,
        "batch_size": recipe.batch_size,
        "device": device,
        "threads": config.num_workers or world.threads,
        "rank": world.rank,
        "world_size": world.size,
    }

    def open_train(size: int) -> tuple[Loader, str]:
        return open_loader(folder, manifest, "train", plan=plan, image_size=size, **common)

    first = progressive.image_size(0, recipe.epochs, recipe.progressive, recipe.image_size)
    train_loader, loader_reason = open_train(first)
    log(f"Loader: {loader_reason}.")
    validation_loader = None
    if "validation" in manifest.splits:
        whole: dict[str, Any] = {"plan": None, "image_size": recipe.image_size}
        validation_loader = open_loader(folder, manifest, "validation", **whole, **common)[0]
    normalize = Normalize(manifest.mean, manifest.std, device)
    return Run(
        config,
        recipe,
        manifest,
        device,
        dtype,
        tracker,
        open_train,
        train_loader,
        validation_loader,
        _step(config, recipe, build_initial_model(config, recipe, folder, manifest, plan), normalize, dtype, world),
        normalize,
        State(),
        Metrics(device),
        world,
        StopConsensus(world),
        first,
        loader_reason=loader_reason,
    )


def _device(config: TrainConfig, world: World) -> tuple[torch.device, torch.dtype | None]:
    device, device_reason = choose_device(config.device)
    dtype, precision_reason = precision(device, config.amp)
    many = f"{world.size} processes, each on " if world.size > 1 else ""
    log(f"Device: {many}{device} ({device_reason}); {precision_reason}.")
    return device, dtype


def recipe_of(config: TrainConfig, manifest: Manifest, device: torch.device) -> tuple[Recipe, str]:
    """The dataset's recipe with the user's changes, and why this one."""
    recipe, reason = recipes.recipe_for(
        manifest.dataset,
        manifest.train_size,
        manifest.channels,
        manifest.splits["train"].count,
        manifest.resized,
        recipes.recipe_kind(config, manifest.dataset, device.type == "cpu"),
    )
    return recipes.resolve(config, recipe), reason


def _recipe(config: TrainConfig, manifest: Manifest, device: torch.device) -> Recipe:
    """The recipe, which it says.

    Raises:
        ValueError: what the user set does not fit the dataset.
    """
    recipe, reason = recipe_of(config, manifest, device)
    count = manifest.splits["train"].count
    log(f"Recipe: {reason}; {recipe.model}, {recipe.image_size} px, {recipe.epochs} epochs of {count:,} images.")
    if recipe.progressive and recipe.policy.crop != "resized":
        raise ValueError(
            f"--progressive needs images that are cropped and resized; these of {manifest.image_size} px are only "
            f"shifted: leave it away, or give a --resize other than their size."
        )
    if recipe.model == "speednet" and 0 < recipe.progressive < (least := least_side(recipe.image_size)):
        raise ValueError(
            f"--progressive is {recipe.progressive}, but a speednet for {recipe.image_size} px sees {least} px or more."
        )
    if recipe.policy.crop == "shift" and recipe.policy.shift >= recipe.image_size:
        raise ValueError(
            f"--shift is {recipe.policy.shift}, but must be less than the {recipe.image_size} px of an image."
        )
    check_views(config.tta, recipe.policy)
    return recipe


def _step(
    config: TrainConfig,
    recipe: Recipe,
    model: torch.nn.Module,
    normalize: Normalize,
    dtype: torch.dtype | None,
    world: World,
) -> Step:
    """Model, average, optimizer and all that a step does with them; equal on every rank."""
    device = normalize.scale.device
    torch.backends.cudnn.benchmark = True
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 from sm_80 on, as cuDNN's convolutions have by themselves
    model = model.to(device)
    world.broadcast_state(model)
    average = ModelEma(model, recipe.ema) if recipe.ema else None
    mixes = recipe.mixup > 0 or recipe.cutmix > 0
    mode = mode_of(config.compile, device, world.size, mixes)
    if mode == "graph":
        log("Step: recorded as one CUDA graph.")
    forward = compiled(model, mode)
    return (CudaGraphStep if mode == "graph" else Step)(
        model,
        build_optimizer(model, recipe),
        normalize,
        recipe.label_smoothing,
        dtype,
        average,
        forward=world.wrap_ddp(forward, device, static=config.accumulate == 1),
        mixing=Mixing(config.seed, recipe.mixup, recipe.cutmix, world.rank, world.size),
        accumulate=config.accumulate,
        clip_norm=recipe.clip_norm,
    )


def configuration(run: Run) -> dict[str, Any]:
    """The options, and what the recipe made of them, as JSON types."""
    recipe = dataclasses.asdict(run.recipe)
    policy = {f"augment_{name}": value for name, value in recipe.pop("policy").items()}
    chosen = {f"recipe_{name}": value for name, value in (recipe | policy).items()}
    return dataclasses.asdict(run.config) | chosen | {"manifest_fingerprint": run.manifest.fingerprint}
