"""Find options that were given and change nothing in this run."""

from __future__ import annotations

from collections.abc import Iterator

from trainer_classification.config import TrainConfig
from trainer_classification.data.manifest import Manifest
from trainer_classification.options import flag
from trainer_classification.recipes import Recipe
from trainer_classification.training.finetuning import loop_options

_FRACTIONS = (("validation_fraction", "validation"), ("test_fraction", "test"))


def describe_idle_options(
    config: TrainConfig, recipe: Recipe, own_recipe: Recipe, manifest: Manifest
) -> Iterator[str]:
    """Yield a sentence for each option that has no effect.

    Args:
        config: what the user asked for.
        recipe: with no value left open.
        own_recipe: of the dataset, before any option changed it.
        manifest: of the prepared dataset.
    """
    yield from _describe_idle_augmentation(config, recipe, own_recipe)
    if config.progressive >= recipe.image_size and recipe.freeze != "backbone":
        yield f"--progressive {config.progressive} has no effect: images have {recipe.image_size} px in all epochs."
    if config.eval_crop > 0 and recipe.eval_crop == 0:
        yield (
            f"--eval-crop {config.eval_crop:g} has no effect: images that are stored at their own size are always "
            f"seen whole."
        )
    if config.class_weights == "balanced" and len(set(manifest.splits["train"].per_class)) == 1:
        yield "--class-weights balanced has no effect: all classes have the same number of images."
    if config.weights and config.resume:
        yield f"--weights {config.weights} has no effect where --resume finds a checkpoint, which has its own."
    yield from _describe_idle_loop(config, recipe, manifest)
    for name, split in _FRACTIONS:
        value = getattr(config, name)
        has_own = split in manifest.splits and manifest.splits[split].origin == "dataset"
        if has_own and value != getattr(TrainConfig, name):
            yield f"{flag(name)} {value:g} has no effect: the dataset has its own {split} split."


def _describe_idle_augmentation(
    config: TrainConfig, recipe: Recipe, own_recipe: Recipe
) -> Iterator[str]:
    if config.shift > 0 and recipe.policy.crop == "resized":
        yield (
            f"--shift {config.shift} has no effect: images that are stored larger than {recipe.image_size} px are "
            f"cropped at random, not shifted."
        )
    if config.flip == own_recipe.policy.flip:
        does = "has no flips" if config.flip == "none" else f"has {config.flip} flips"
        yield f"--flip {config.flip} has no effect: the recipe {does} in any case."


def _describe_idle_loop(config: TrainConfig, recipe: Recipe, manifest: Manifest) -> Iterator[str]:
    if config.early_stop and "validation" not in manifest.splits:
        yield f"--early-stop {config.early_stop} has no effect: there are no validation images."
    if recipe.freeze != "backbone":
        if config.feature_views > 1:
            yield f"--feature-views {config.feature_views} has no effect without --freeze backbone."
        return

    if config.early_stop:
        yield f"--early-stop {config.early_stop} has no effect: the head is fitted in one epoch."
    for option in loop_options(config):
        yield f"{option} has no effect: only the head is trained, to features; --freeze none trains all layers."
