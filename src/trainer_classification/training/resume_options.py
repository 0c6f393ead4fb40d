"""Take the options of a run that is resumed from its checkpoint, and check those that are given beside it."""

from __future__ import annotations

import dataclasses
from typing import Any

from trainer_classification import recipes
from trainer_classification.checkpoint.meta import CheckpointMeta
from trainer_classification.config import TrainConfig
from trainer_classification.options import given_options, mark_given, options_of
from trainer_classification.recipes import Recipe
from trainer_classification.training.start_checkpoint import (
    choose_start,
    explain_refusal,
    reads_options,
)

# Options of one start of a run, not of the run.
_OF_THE_START = ("resume", "weights", "preflight", "stop_early")
# Options by which `--resume auto` has found the checkpoint.
_OF_THE_SEARCH = ("project_name", "output_dir")


def restore_options(config: TrainConfig) -> TrainConfig:
    """Return the options of the run that is resumed, with those that are given in their place.

    Without `--resume`, and where `reads_options` is false, it is the same config.

    Args:
        config: what the user asked for.

    Raises:
        ValueError: the checkpoint cannot be read, or a given option cannot change.
    """
    if not reads_options(config):
        return config
    start = choose_start(config)
    if start.kind != "resume" or start.path is None or start.meta is None:
        return config

    own = {*_OF_THE_START, *(_OF_THE_SEARCH if config.resume == "auto" else ())}
    given = given_options(config)
    values = _read_options(start.meta)
    values |= {name: getattr(config, name) for name in given | own}
    restored = TrainConfig(**values)
    if difference := _find_difference(restored, start.meta, given):
        raise explain_refusal(start.path, difference)
    mark_given(restored, options_of(TrainConfig))

    return restored


def keep_schedule(recipe: Recipe, of: Recipe) -> Recipe:
    """Return a recipe with epochs and learning rate of another one: what a resumed run may change."""
    return dataclasses.replace(recipe, epochs=of.epochs, learning_rate=of.learning_rate)


def _read_options(meta: CheckpointMeta) -> dict[str, Any]:
    """Return the options of a checkpoint's run by their present names."""
    names = {
        known: name
        for name, (_, option, _) in options_of(TrainConfig).items()
        for known in (name, *option.aliases)
    }
    return {names[name]: value for name, value in meta.config.items() if name in names}


def _find_difference(config: TrainConfig, meta: CheckpointMeta, given: frozenset[str]) -> str:
    """Say which given option a run cannot change; "" if there is none.

    Args:
        config: the restored options.
        meta: of the checkpoint.
        given: names of the options that were given.
    """
    if meta.has_budget and "epochs" in given:
        return "its --budget plans the epochs, so --epochs cannot be given"
    before = _read_options(meta)
    accepted = {"task": meta.task, "image_size": meta.recipe.image_size}
    for name in ("task", "image_size", "validation_fraction", "test_fraction"):
        asked = getattr(config, name)
        saved = before.get(name, asked)  # older runs lack some options
        if name in given and asked not in (saved, accepted.get(name)):
            return f"its {name} differs ({accepted.get(name, saved)} / {asked})"
    if "recipe" in given and _is_other_recipe(config.recipe, meta, before):
        return f"its network is {meta.network}, which is not that of --recipe {config.recipe}"

    recipe = _apply_given(config, meta, given)
    return meta.find_difference(meta.dataset, meta.class_names, meta.fingerprint, recipe, config)


def _is_other_recipe(kind: str, meta: CheckpointMeta, before: dict[str, Any]) -> bool:
    """Return True if a checkpoint is of another recipe than --recipe asks for."""
    if kind in ("auto", before.get("recipe")):
        return False
    return (kind == "speed") != (meta.network == "speednet")


def _apply_given(config: TrainConfig, meta: CheckpointMeta, given: frozenset[str]) -> Recipe:
    """Return the recipe with the given options, except for those that may change or that a budget plans."""
    free = {"epochs", "learning_rate"}
    if meta.has_budget:
        free |= {"batch_size", "progressive"}
    if not meta.resized:
        free.add("eval_crop")  # without effect
    asked = TrainConfig(**{name: getattr(config, name) for name in given - free})
    return recipes.apply_options(asked, meta.recipe)
