"""Inspect the dataset of a training, decide, and prepare what the decisions need."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from trainer_classification.config import PrepareConfig, TrainConfig
from trainer_classification.console import log
from trainer_classification.device import choose_device
from trainer_classification.environment import in_cloud
from trainer_classification.options import flag, given_options
from trainer_classification.output_paths import check_output_folder
from trainer_classification.storage import is_url
from trainer_classification.training.budget import has_budget, parse_seconds
from trainer_classification.training.distributed import World
from trainer_classification.training.finetuning import (
    Photographs,
    choose_image_size,
    choose_kind,
    choose_start_weights,
)
from trainer_classification.training.resolve import (
    PreparedDataset,
    Resolved,
    decide,
    log_decisions,
    resolve,
)
from trainer_classification.training.start_checkpoint import (
    StartCheckpoint,
    choose_start,
    output_folder,
)
from trainer_classification.training.torch_compile import choose_step_mode


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
    _check_options(config)
    if world.rank == 0 and not in_cloud():
        check_output_folder("--output-dir", output_folder(config))
    start = choose_start(config)
    if is_url(config.prepared):
        return open_remote(config, world, start)
    options = prepare_options(config)
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


def _check_options(config: TrainConfig) -> None:
    """Raise ValueError for options that no dataset makes possible, before one is prepared."""
    if has_budget(config):
        parse_seconds(config.budget)
    choose_step_mode(config.compile, choose_device(config.device)[0], 1, mixes=False)


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


def open_remote(config: TrainConfig, world: World, start: StartCheckpoint) -> tuple[Path, Resolved]:
    """Return what `prepare_dataset` does for a dataset in object storage, whose originals need not be here.

    Raises:
        ValueError: it is not there, or was prepared otherwise than the options ask.
    """
    from trainer_classification.preparation.remote_source import make_room, open_prepared

    folder, found = open_prepared(config.prepared, config.dataset, config.image_size)
    asked = {
        "task": (config.task, found.task),
        "validation_fraction": (config.validation_fraction, found.options["validation_fraction"]),
        "test_fraction": (config.test_fraction, found.options["test_fraction"]),
    }
    for name in given_options(config) & asked.keys():
        wanted, prepared = asked[name]
        if wanted not in ("", prepared):
            raise ValueError(
                f"{flag(name)} is {wanted}, but {config.prepared} was prepared with {prepared}: prepare it again, or "
                f"leave the option out."
            )
    resolved = resolve(config, PreparedDataset(found), world, found.formats, start)
    make_room(folder, found, resolved.formats)

    return folder, resolved


def _choose_side(config: TrainConfig, info: Photographs, start: StartCheckpoint) -> int:
    """Return the side in px of the images that the run's trained weights know; 0: as without them."""
    device, _ = choose_device(config.device)
    kind, _ = choose_kind(config, info, start, device.type == "cpu")
    return choose_image_size(config, info, choose_start_weights(config, kind, start), kind)


def prepare_options(config: TrainConfig) -> PrepareConfig:
    """Return the options of prepare.py that a training implies: those that it has, too."""
    names = [field.name for field in dataclasses.fields(PrepareConfig)]
    return PrepareConfig(**{name: getattr(config, name) for name in names if hasattr(config, name)})
