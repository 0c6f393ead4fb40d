"""Put a training together from the decisions and the prepared dataset: recipe, loaders, model, optimizer, step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from trainer_classification.augment.mixup import Mixing
from trainer_classification.checkpoint.meta import Progress
from trainer_classification.config import TrainConfig
from trainer_classification.console import log
from trainer_classification.data.manifest import Manifest
from trainer_classification.data.table import open_table
from trainer_classification.environment import keep_freed_memory, plan_threads
from trainer_classification.loaders.base import Loader, LoaderRequest
from trainer_classification.loaders.registry import open_loader
from trainer_classification.loaders.shrink import ShrinkingLoader
from trainer_classification.models.normalize import Normalize
from trainer_classification.names import portable_path
from trainer_classification.optim.class_weights import balance_classes
from trainer_classification.optim.ema import ModelEma
from trainer_classification.optim.parameter_groups import build_optimizer
from trainer_classification.outputs.tracking import Tracker
from trainer_classification.plan import Plan, describe_view, training_steps
from trainer_classification.recipes import Recipe, describe_augmentation, describe_mixing
from trainer_classification.training import progressive
from trainer_classification.training.cuda_graph import CudaGraphStep
from trainer_classification.training.distributed import StopConsensus, World
from trainer_classification.training.finetuning import describe_limits, describe_origin
from trainer_classification.training.idle_options import describe_idle_options
from trainer_classification.training.initial_weights import build_initial_model
from trainer_classification.training.resolve import Resolved, complete_recipe, recipe_of
from trainer_classification.training.step import Step
from trainer_classification.training.torch_compile import StepMode, choose_step_mode, compile_model

_DRY_RUN_STEPS = 2


@dataclass(frozen=True)
class Inputs:
    """What a training is put together from.

    Attributes:
        config: what the user asked for, with the values that a budget planned.
        resolved: the decisions.
        folder: of the prepared dataset.
        manifest: of the prepared dataset.
        world: the processes that train.
        started: `time.monotonic()` at which the command started.
    """

    config: TrainConfig
    resolved: Resolved
    folder: Path
    manifest: Manifest
    world: World
    started: float


@dataclass(frozen=True)
class Setup:
    """All parts of a training.

    What changes while it runs is in `state.State`, and in model and optimizer.

    Attributes:
        inputs: what it was put together from.
        recipe: with no value left open.
        recipe_reason: why this one.
        plan: order and draws of the training images.
        step: with model, optimizer and average.
        step_mode: how steps run.
        mean: that images are normalized by, for each channel, in 0..1.
        std: likewise.
        normalize: turns a batch into the network's input.
        validation_loader: None if there is no validation split.
        open_tracker: opens the tracker, which makes the folders for the outputs.
        consensus: of the processes about saving and stopping.
    """

    inputs: Inputs
    recipe: Recipe
    recipe_reason: str
    plan: Plan
    step: Step
    step_mode: StepMode
    mean: list[float]
    std: list[float]
    normalize: Normalize
    validation_loader: Loader | None
    open_tracker: Callable[[], Tracker]
    consensus: StopConsensus

    @cached_property
    def tracker(self) -> Tracker:
        """Gets the configuration and the metrics; has the folders for the outputs.

        It is opened late: a refused start leaves no folder, and the first step need
        not wait for it.
        """
        tracker = self.open_tracker()
        tracker.configuration(describe_configuration(self))
        return tracker

    @property
    def config(self) -> TrainConfig:
        """What the user asked for, with the values that a budget planned."""
        return self.inputs.config

    @property
    def manifest(self) -> Manifest:
        """Of the prepared dataset."""
        return self.inputs.manifest

    @property
    def world(self) -> World:
        """The processes that train."""
        return self.inputs.world

    @property
    def device(self) -> torch.device:
        """That trains."""
        return self.inputs.resolved.device

    @property
    def dtype(self) -> torch.dtype | None:
        """Of autocast; None: none."""
        return self.inputs.resolved.dtype

    @property
    def num_classes(self) -> int:
        """Classes of the dataset, K."""
        return len(self.manifest.class_names)

    @property
    def full_steps(self) -> int:
        """Steps of an epoch over all training images."""
        return training_steps(self.plan.count, self.recipe.batch_size)

    def steps_per_epoch(self, progress: Progress) -> int:
        """Return the steps of an epoch, within the limits of a budget or an option."""
        if self.config.stop_early:
            return min(self.full_steps, _DRY_RUN_STEPS)
        limit = progress.step_limit or self.config.max_steps_per_epoch
        return min(self.full_steps, limit) if limit else self.full_steps

    def epochs(self, progress: Progress) -> int:
        """Return the epochs of the run."""
        if self.config.stop_early:
            return 1
        return progress.epochs or self.recipe.epochs

    def total_steps(self, progress: Progress) -> int:
        """Return the steps of the run, as far as they are planned."""
        epochs_left = self.epochs(progress) - progress.epoch
        return progress.steps_before + epochs_left * self.steps_per_epoch(progress)

    def image_size(self, progress: Progress) -> int:
        """Return the side of this epoch's images in px."""
        recipe = self.recipe
        return progressive.image_size(
            progress.epoch, self.epochs(progress), recipe.progressive, recipe.image_size
        )

    def open_train_loader(self, image_size: int) -> Loader:
        """Open the loader of the training split."""
        recipe = self.recipe
        side = image_size if recipe.policy.crop == "resized" else recipe.image_size
        loader = _open(self.inputs, recipe, "train", side, self.plan)
        return loader if side == image_size else ShrinkingLoader(loader, image_size)

    def open_test_loader(self) -> Loader:
        """Open the loader of the test split."""
        return _open(self.inputs, self.recipe, "test", self.recipe.image_size, None)

    def open_whole_split(self, split: str, batch_size: int = 0) -> Loader:
        """Open a loader that delivers all images of a split to this rank, in their order."""
        recipe = dataclasses.replace(self.recipe, batch_size=batch_size or self.recipe.batch_size)
        return _open(self.inputs, recipe, split, recipe.image_size, None, World())

    def open_whole_training(self, batch_size: int) -> Loader:
        """Open a loader that delivers the augmented training images to this rank alone."""
        recipe = dataclasses.replace(self.recipe, batch_size=batch_size)
        return _open(self.inputs, recipe, "train", recipe.image_size, self.plan, World())

    def close(self) -> None:
        """Close the validation loader."""
        if self.validation_loader is not None:
            self.validation_loader.close()

    def start_tracking(self) -> None:
        """Open the tracker, unless that is done."""
        _ = self.tracker

    def close_tracker(self) -> None:
        """End the run in the tracker, if it was opened."""
        if "tracker" in self.__dict__:
            self.tracker.close()


def build_setup(inputs: Inputs, open_tracker: Callable[[], Tracker]) -> Setup:
    """Put a training together, without writing anything.

    Args:
        inputs: what to put it together from.
        open_tracker: called when the tracker or its folders are needed first.

    Raises:
        ValueError: an option does not fit the dataset, or the dataset is damaged.
    """
    config = inputs.config
    manifest = inputs.manifest
    device = inputs.resolved.device
    if device.type == "cpu":
        keep_freed_memory()
    recipe, reason = complete_recipe(config, inputs.resolved, manifest)
    sizes = open_table(inputs.folder, manifest, "train").sizes
    plan = Plan(manifest.splits["train"].count, config.seed, recipe.policy, sizes)
    mixes = recipe.mixup > 0 or recipe.cutmix > 0
    mode = choose_step_mode(config.compile, device, inputs.world.size, mixes)
    mean, std = _choose_normalization(inputs)
    normalize = Normalize(mean, std, device)
    validation_loader = None
    if "validation" in manifest.splits:
        validation_loader = _open(inputs, recipe, "validation", recipe.image_size, None)
    return Setup(
        inputs=inputs,
        recipe=recipe,
        recipe_reason=reason,
        plan=plan,
        step=_build_step(inputs, recipe, plan, mode, normalize),
        step_mode=mode,
        mean=mean,
        std=std,
        normalize=normalize,
        validation_loader=validation_loader,
        open_tracker=open_tracker,
        consensus=StopConsensus(inputs.world),
    )


def _choose_normalization(inputs: Inputs) -> tuple[list[float], list[float]]:
    """Return mean and std that trained weights know images by, else those of the training images."""
    start = inputs.resolved.start
    manifest = inputs.manifest
    if len(start.mean) < manifest.channels:
        return manifest.mean, manifest.std
    return list(start.mean[: manifest.channels]), list(start.std[: manifest.channels])


def log_setup(setup: Setup) -> None:
    """Log what the recipe came to with this dataset."""
    recipe = setup.recipe
    augmentation = [
        describe_augmentation(recipe.policy, setup.manifest.mirrored_classes),
        *describe_mixing(recipe),
    ]
    is_growing = 0 < recipe.progressive < recipe.image_size
    sides = f"{recipe.progressive} to {recipe.image_size}" if is_growing else recipe.image_size
    log(
        f"Recipe: {setup.recipe_reason}; {recipe.model}, {sides} px, {recipe.epochs} epochs of "
        f"{setup.plan.count:,} images; augmentation: {', '.join(augmentation)}."
    )
    if (weights := setup.step.class_weights) is not None:
        present = weights[weights > 0]
        log(f"Classes weigh {present.min():.3g} to {present.max():.3g} in the loss.")
    log(f"Validation and test see {describe_view(recipe.eval_crop)}.")
    own_recipe, _ = recipe_of(setup.config, setup.inputs.resolved, setup.manifest)
    manifest = setup.manifest
    start = setup.inputs.resolved.start
    for sentence in (
        *describe_idle_options(setup.config, recipe, own_recipe, manifest),
        *describe_limits(recipe, start, manifest.channels, manifest.resized),
    ):
        log(f"Note: {sentence}")
    if setup.step_mode == "graph":
        log("Step: recorded as one CUDA graph.")


def describe_configuration(setup: Setup) -> dict[str, Any]:
    """Return the options and the values of the recipe, as JSON types."""
    recipe = dataclasses.asdict(setup.recipe)
    policy = {f"augment_{name}": value for name, value in recipe.pop("policy").items()}
    resolved = {f"recipe_{name}": value for name, value in (recipe | policy).items()}
    return (
        portable_options(setup.config)
        | resolved
        | {"manifest_fingerprint": setup.manifest.fingerprint}
        | {"start_weights": describe_origin(setup.recipe.model, setup.inputs.resolved.start)}
    )


def portable_options(config: TrainConfig) -> dict[str, Any]:
    """Return the options as a run's outputs have them, as JSON types.

    Paths are those of `portable_path`.
    """
    return {
        name: portable_path(value) if isinstance(value, str) else value
        for name, value in dataclasses.asdict(config).items()
    }


def _open(
    inputs: Inputs,
    recipe: Recipe,
    split: str,
    image_size: int,
    plan: Plan | None,
    among: World | None = None,
) -> Loader:
    """Open the loader of a split, whose images are divided among some processes; by default those that train."""
    world = among or inputs.world
    computes = inputs.resolved.device.type == "cpu"
    plan_of_threads = plan_threads(inputs.world.local_size, computes)
    request = LoaderRequest(
        folder=inputs.folder,
        manifest=inputs.manifest,
        split=split,
        plan=plan,
        batch_size=recipe.batch_size,
        image_size=image_size,
        device=inputs.resolved.device,
        threads=inputs.config.workers or plan_of_threads.loader,
        rank=world.rank,
        world_size=world.size,
        eval_crop=recipe.eval_crop,
        local_ranks=world.local_ranks,
    )

    return open_loader(inputs.resolved.engine, request)


def _build_step(
    inputs: Inputs, recipe: Recipe, plan: Plan, mode: StepMode, normalize: Normalize
) -> Step:
    """Build model, average and optimizer, equal on every rank, and the step that uses them."""
    config = inputs.config
    world = inputs.world
    device = inputs.resolved.device
    torch.backends.cudnn.benchmark = True
    if device.type == "cuda":
        torch.set_float32_matmul_precision(
            "high"
        )  # TF32 from sm_80 on, which cuDNN's convolutions use by default

    weights = inputs.resolved.start.weights
    model = build_initial_model(config, weights, recipe, inputs.folder, inputs.manifest, plan)
    model = model.to(device)
    world.broadcast_state(model)
    forward = compile_model(model, mode)
    kind = CudaGraphStep if mode == "graph" else Step
    tries_memory = world.size > 1 and device.type == "cuda" and mode == "off"

    return kind(
        model,
        build_optimizer(model, recipe, inputs.resolved.dtype),
        normalize,
        label_smoothing=recipe.label_smoothing,
        class_weights=_weigh_classes(recipe, inputs.manifest, device),
        dtype=inputs.resolved.dtype,
        ema=ModelEma(model, recipe.ema) if recipe.ema else None,
        forward=world.wrap_ddp(forward, device, static=config.accumulate == 1 and not tries_memory),
        mixing=Mixing(config.seed, recipe.mixup, recipe.cutmix, world.rank, world.size),
        accumulate=config.accumulate,
        # Graphs of torch.compile write each output over the one before.
        may_split=world.size == 1 and config.compile != "reduce-overhead",
        any_rank=world.any if tries_memory else None,
        clip_norm=recipe.clip_norm,
    )


def _weigh_classes(recipe: Recipe, manifest: Manifest, device: torch.device) -> torch.Tensor | None:
    """Return the weight of each class in the loss, float32 [K]; None: all 1."""
    if recipe.class_weights == "none":
        return None
    return balance_classes(manifest.splits["train"].per_class).to(device)
