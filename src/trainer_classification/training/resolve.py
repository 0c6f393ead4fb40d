"""Decide device, precision, recipe, engine and start checkpoint of a run: once, each with its reason.

Everything after this reads the decisions from `Resolved`. What also depends on
the number of training images, known only after preparing, is completed from the
manifest by `complete_recipe`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import torch

from trainer_classification import recipes
from trainer_classification.config import TrainConfig
from trainer_classification.console import log
from trainer_classification.data.formats import ArrayLayout
from trainer_classification.data.manifest import Manifest
from trainer_classification.device import choose_device, choose_precision
from trainer_classification.loaders.registry import EngineChoice, choose_engine
from trainer_classification.models.catalogue import check_side
from trainer_classification.models.speednet import least_side
from trainer_classification.outputs.trackers import check_tracker
from trainer_classification.recipes import Recipe, RecipeKind
from trainer_classification.training.distributed import World
from trainer_classification.training.finetuning import (
    Photographs,
    choose_kind,
    choose_start_weights,
    complete_freeze,
    freezes_backbone,
)
from trainer_classification.training.start_checkpoint import (
    StartCheckpoint,
    choose_start,
    explain_refusal,
    reads_options,
)
from trainer_classification.training.tta import check_views

_TOO_SMALL = 128  # px: ImageNet weights pay from larger sides on, see docs/models.md


class Dataset(Photographs, Protocol):
    """What must be known of a dataset to decide; `preparation.inspect.DatasetInfo` has it before preparing."""

    @property
    def layout(self) -> ArrayLayout:
        """Shape of the images in the array."""


@dataclass(frozen=True)
class PreparedDataset:
    """A dataset that is already prepared, as `Dataset`."""

    manifest: Manifest

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return self.manifest.dataset

    @property
    def count(self) -> int:
        """Number of images, over all splits."""
        return self.manifest.count

    @property
    def are_photographs(self) -> bool:
        """Whether images have colors and are prepared at a side for which trained weights pay."""
        manifest = self.manifest
        return manifest.resized and manifest.channels == 3 and manifest.train_size > _TOO_SMALL

    @property
    def layout(self) -> ArrayLayout:
        """Shape of the images in the array."""
        return self.manifest.array_layout


@dataclass(frozen=True)
class Resolved:
    """The decisions of a run.

    Attributes:
        device: that trains.
        device_reason: why.
        dtype: of autocast; None: none, everything in fp32.
        dtype_reason: why, with the name of the precision.
        recipe_kind: which recipe of the dataset.
        freezes: whether the backbone is frozen, if the user has not decided.
        network: name in the catalogue; "auto": the recipe's.
        engine: that delivers the batches, with its reason.
        formats: that must be prepared.
        start: what the training starts from, with its reason.
        feature_side: side in px of the images whose features a frozen backbone
            computes, where a budget chooses it; 0: the recipe's.
        note: what the user should know of it, a sentence; "": nothing.
    """

    device: torch.device
    device_reason: str
    dtype: torch.dtype | None
    dtype_reason: str
    recipe_kind: RecipeKind
    freezes: bool
    network: str
    engine: EngineChoice
    formats: tuple[str, ...]
    start: StartCheckpoint
    feature_side: int = 0
    note: str = ""


def resolve(
    config: TrainConfig,
    dataset: Dataset,
    world: World | None = None,
    prepared: Collection[str] | None = None,
    start: StartCheckpoint | None = None,
) -> Resolved:
    """Decide, and log the decisions.

    Arguments as `decide`, and the processes that train; None: only this one.
    """
    resolved = decide(config, dataset, prepared, start)
    log_decisions(resolved, world or World())

    return resolved


def decide(
    config: TrainConfig,
    dataset: Dataset,
    prepared: Collection[str] | None = None,
    start: StartCheckpoint | None = None,
) -> Resolved:
    """Decide everything that does not depend on the number of training images.

    Args:
        config: what the user asked for.
        dataset: what is known of the dataset.
        prepared: the only formats that can be had. None: what is missing will be
            prepared.
        start: of `choose_start`, if it was called before.

    Raises:
        ValueError: what the user asked for is not possible here; says what to do.
    """
    check_tracker(config.tracker)
    start = start or choose_start(config)
    _check_dataset(start, dataset)
    device, device_reason = choose_device(config.device)
    dtype, dtype_reason = choose_precision(device, config.amp)
    network = _choose_network(config, start)
    kind, note = choose_kind(_with_network(config, network), dataset, start, device.type == "cpu")
    if config.image_size:
        own, _ = recipes.recipe_for(dataset.name, config.image_size, 3, dataset.count, kind=kind)
        check_side(own.model if network == "auto" else network, config.image_size)
    start = choose_start_weights(config, kind, start)
    engine = choose_engine(config.loader, dataset.layout, dataset.count, device, prepared)

    return Resolved(
        device=device,
        device_reason=device_reason,
        dtype=dtype,
        dtype_reason=dtype_reason,
        recipe_kind=kind,
        freezes=freezes_backbone(config, kind, start, device.type == "cpu"),
        network=network,
        engine=engine,
        formats=_needed_formats(engine, dataset.layout.resized, network, kind),
        start=start,
        note=note,
    )


def recipe_of(config: TrainConfig, resolved: Resolved, manifest: Manifest) -> tuple[Recipe, str]:
    """Return the recipe before any option changes it, and the reason.

    It is that of the run that is resumed with its options, else that of the
    dataset.
    """
    start = resolved.start
    if reads_options(config) and start.kind == "resume" and start.meta is not None:
        return start.meta.recipe, "that of the resumed run"

    recipe, reason = recipes.recipe_for(
        manifest.dataset,
        manifest.train_size,
        manifest.channels,
        manifest.splits["train"].count,
        manifest.resized,
        kind=resolved.recipe_kind,
    )
    if manifest.mirrored_classes:
        recipe = recipes.without_flips(recipe)
    if resolved.freezes:
        recipe = dataclasses.replace(recipe, eval_crop=recipes.FROZEN_VIEW)
    return recipe, reason


def complete_recipe(
    config: TrainConfig, resolved: Resolved, manifest: Manifest
) -> tuple[Recipe, str]:
    """Return the recipe with no value left open, and the reason.

    Args:
        config: whose options replace the recipe's values.
        resolved: the decisions.
        manifest: of the prepared dataset.

    Raises:
        ValueError: an option does not fit the dataset.
    """
    recipe, reason = recipe_of(config, resolved, manifest)
    recipe = recipes.apply_options(_with_network(config, resolved.network), recipe)
    recipe = dataclasses.replace(
        recipe, eval_crop=_choose_view(config, recipe, resolved.start, manifest)
    )
    recipe = complete_freeze(resolved.freezes, resolved.feature_side, recipe, resolved.start)
    _check_recipe(recipe, manifest)
    check_views(config.tta, recipe.policy)

    return recipe, reason


def _choose_view(
    config: TrainConfig, recipe: Recipe, start: StartCheckpoint, manifest: Manifest
) -> float:
    """Return what evaluation sees, as `Recipe.eval_crop`.

    A run that continues keeps the view it was started with, so that its epochs
    can be compared.
    """
    if not manifest.resized:
        return 0.0
    if (
        config.eval_crop < 0
        and start.meta is not None
        and start.meta.fingerprint == manifest.fingerprint
    ):
        return start.meta.recipe.eval_crop
    return recipe.eval_crop


def _check_dataset(start: StartCheckpoint, dataset: Dataset) -> None:
    """Raise ValueError if a checkpoint of another dataset would be resumed, before anything is prepared."""
    if start.kind != "resume" or start.meta is None or start.path is None:
        return
    if start.meta.dataset != dataset.name:
        names = f"{start.meta.dataset} / {dataset.name}"
        raise explain_refusal(start.path, f"its dataset differs ({names})")


def _choose_network(config: TrainConfig, start: StartCheckpoint) -> str:
    """Return the user's network, else that of the archive or the weights, unless the user asked for speed."""
    if config.model == "auto" and config.recipe != "speed":
        return start.network
    return config.model


def _with_network(config: TrainConfig, network: str) -> TrainConfig:
    return dataclasses.replace(config, model=network)  # type: ignore[arg-type]  # one of the option's values


def _needed_formats(
    engine: EngineChoice, resized: bool, network: str, kind: RecipeKind
) -> tuple[str, ...]:
    """Return the engine's formats, and the array if a speednet whitens its first layer with it.

    The planes do as well.
    """
    formats = engine.formats(resized)
    uses_speednet = network == "speednet" or (network == "auto" and kind == "speed")
    if uses_speednet and not {"array", "planes"} & set(formats):
        return (*formats, "array")
    return formats


def log_decisions(resolved: Resolved, world: World) -> None:
    """Log the decisions, each with its reason."""
    processes = f"{world.size} processes, each on " if world.size > 1 else ""
    log(
        f"Device: {processes}{resolved.device} ({resolved.device_reason}); {resolved.dtype_reason}."
    )
    log(f"Loader: {resolved.engine.reason}.")
    log(f"Start: {resolved.start.reason}.")
    if resolved.note:
        log(resolved.note)


def _check_recipe(recipe: Recipe, manifest: Manifest) -> None:
    """Raise ValueError if the recipe does not fit the images."""
    if recipe.model == "speednet" and recipe.progressive:
        smallest = least_side(recipe.image_size)
        if recipe.progressive < smallest:
            raise ValueError(
                f"--progressive is {recipe.progressive}, but a speednet for {recipe.image_size} px needs {smallest} px "
                f"or more."
            )
    if recipe.policy.crop == "shift" and recipe.policy.shift >= recipe.image_size:
        raise ValueError(
            f"--shift is {recipe.policy.shift}, but must be less than the {recipe.image_size} px of an image."
        )
    if recipe.policy.cutout >= recipe.image_size:
        raise ValueError(
            f"--cutout is {recipe.policy.cutout}, but must be less than the {recipe.image_size} px of an image."
        )
