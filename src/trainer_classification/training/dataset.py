"""Inspect the dataset of a training, decide, and prepare what the decisions need."""

from __future__ import annotations

from pathlib import Path

from trainer_classification.config import PrepareConfig, TrainConfig
from trainer_classification.console import log
from trainer_classification.device import choose_device
from trainer_classification.training.distributed import World
from trainer_classification.training.finetuning import (
    Photographs,
    choose_image_size,
    choose_kind,
    choose_start_weights,
)
from trainer_classification.training.resolve import (
    Resolved,
    decide,
    log_decisions,
    resolve,
)
from trainer_classification.training.start_checkpoint import StartCheckpoint, choose_start


def prepare_dataset(config: TrainConfig, world: World) -> tuple[Path, Resolved]:
    """Decide how to train, and prepare the formats that this needs, unless they are prepared already.

    Args:
        config: what the user asked for.
        world: the processes that train.

    Returns:
        The folder of the prepared dataset, and the decisions.

    Raises:
        ValueError: the dataset or an option is wrong.
    """
    options = prepare_options(config)
    start = choose_start(config)
    recalled = recall_prepared(config, options, world, start)
    if recalled is not None:
        return recalled

    # Decoders and polars: a machine that trains on a prepared array may lack
    # them.
    from trainer_classification.preparation.inspect import at_train_size, inspect
    from trainer_classification.preparation.pipeline import write

    info = inspect(options)
    if side := _choose_side(config, info, start):
        info = at_train_size(info, options, side, "the images that the trained weights know")
    resolved = resolve(config, info, world, start=start)
    prepared = write(info, resolved.formats, options, accept_existing=True)

    return prepared.folder, resolved


def recall_prepared(
    config: TrainConfig, options: PrepareConfig, world: World, start: StartCheckpoint
) -> tuple[Path, Resolved] | None:
    """Return what `prepare_dataset` does, if an earlier run has left all that this one needs; else None."""
    from trainer_classification.preparation.recall import recall  # a bare machine lacks xxhash

    known = recall(options)
    if known is None:
        return None
    found = known.at_size(_choose_side(config, known, start))
    if found is None:
        return None

    resolved = decide(config, found, start=start)
    if not set(resolved.formats) <= found.manifest.formats.keys():
        return None
    for note in known.notes:
        log(f"Note: {note}")
    log_decisions(resolved, world)
    found.tell_prepared()

    return found.folder, resolved


def _choose_side(config: TrainConfig, info: Photographs, start: StartCheckpoint) -> int:
    """Return the side in px of the images that the run's trained weights know; 0: as without them."""
    device, _ = choose_device(config.device)
    kind, _ = choose_kind(config, info, start, device.type == "cpu")
    return choose_image_size(config, info, choose_start_weights(config, kind, start), kind)


def prepare_options(config: TrainConfig) -> PrepareConfig:
    """Return the options of prepare.py that a training implies."""
    return PrepareConfig(
        dataset=config.dataset,
        task=config.task,
        prepared=config.prepared,
        image_size=config.image_size,
        validation_fraction=config.validation_fraction,
        test_fraction=config.test_fraction,
        unknown_folders=config.unknown_folders,
        nested=config.nested,
        allow_outside=config.allow_outside,
        path_column=config.path_column,
        label_column=config.label_column,
        split_column=config.split_column,
        on_bad_image=config.on_bad_image,
        workers=config.workers,
    )
