"""Prepare the dataset that a model is evaluated on, or find it prepared."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from trainer_classification.checkpoint.load_model import Model
from trainer_classification.config import PrepareConfig
from trainer_classification.console import log
from trainer_classification.data import manifest as manifests
from trainer_classification.data.source import NoDatasetError
from trainer_classification.environment import in_cloud
from trainer_classification.inference.run_dataset import (
    explain_absence,
    find_place,
    find_prepared,
    is_named,
    is_path,
    log_run_options,
    read_data_options,
)
from trainer_classification.loaders.registry import EngineChoice, choose_engine
from trainer_classification.options import flag
from trainer_classification.preparation.inspect import DatasetInfo, at_train_size, inspect
from trainer_classification.preparation.pipeline import Prepared, write
from trainer_classification.preparation.remote_source import make_room, open_prepared
from trainer_classification.storage import is_url


@dataclass(frozen=True)
class DataOptions:
    """Which images a model is run on, and how.

    Attributes:
        dataset: name or folder of a Hafnia dataset, or a table; "": the mounted one,
            else the one that the model was trained on.
        split: "train", "validation" or "test".
        task: the classification task, where the dataset has several; "": the only
            one.
        prepared: folder or URL that holds prepared datasets; "": the default.
        eval_crop: side of the central square the model sees, as a fraction of an
            image's short side; 0: the whole image; -1: what it was tested on when
            it was trained.
        batch_size: images a step.
        device: "auto", "cpu" or "cuda".
        threads: that load; 0: one for each CPU.
        amp: "auto": on a CPU, the precision that the model was trained in on one, so
            that figures of a run are repeated; where it is not known, bf16 where it
            is measured to be faster. "off": fp32.
        data_options: options of `PrepareConfig` that say how the dataset is read and
            cut, where these differ from those of the model's run.
        like: model whose dataset is used, and read as by its run, instead of that of
            the model that is evaluated; None: that one.
    """

    dataset: str
    split: str = "test"
    task: str = ""
    prepared: str = ""
    eval_crop: float = -1.0
    batch_size: int = 256
    device: str = "auto"
    threads: int = 0
    amp: str = "auto"
    data_options: Mapping[str, Any] = field(default_factory=dict)
    like: Model | None = None


def prepare_for(
    model: Model, options: DataOptions, device: torch.device
) -> tuple[Prepared, EngineChoice]:
    """Prepare the dataset in the format that the fastest engine reads, or find it prepared.

    Raises:
        ValueError: it is not found, or cannot be prepared.
    """
    origin = options.like or model
    is_own = not options.dataset and not in_cloud()
    if is_url(options.prepared):
        dataset = origin.dataset if is_own else options.dataset
        return _open_remote(model, options, dataset, device)
    as_run = read_data_options(origin)
    reading = as_run | dict(options.data_options)
    is_unchanged = reading.items() >= as_run.items() and options.task in ("", origin.task)
    if is_own and is_unchanged:
        found = _find_own(origin, model, options, device)
        if found is not None:
            return found

    config = PrepareConfig(
        dataset=find_place(origin) if is_own else options.dataset,
        task=options.task or (origin.task if is_own else ""),
        prepared=options.prepared,
        image_size=model.image_size,
        workers=options.threads,
        **reading,
    )
    log_run_options(reading, options.data_options)
    info = _inspect_own(config, origin, is_unchanged) if is_own else inspect(config)
    info = dataclasses.replace(info, train_size_reason="what the model was trained for")
    engine = choose_engine("auto", info.layout, info.count, device)
    return write(info, engine.formats(info.resized), config, accept_existing=True), engine


def _open_remote(
    model: Model, options: DataOptions, dataset: str, device: torch.device
) -> tuple[Prepared, EngineChoice]:
    """Open a prepared dataset in object storage.

    Raises:
        ValueError: it is not there, or was prepared otherwise than the options ask.
    """
    folder, found = open_prepared(options.prepared, dataset, model.image_size)
    for name, value in options.data_options.items():
        if found.options.get(name, value) != value:
            raise ValueError(
                f"{flag(name)} is {value}, but {options.prepared} was prepared with {found.options[name]}: leave the "
                f"option out."
            )
    engine = choose_engine("auto", found.array_layout, found.count, device, found.formats)
    make_room(folder, found, engine.formats(found.resized))
    return Prepared(folder, found), engine


def _find_own(
    origin: Model, model: Model, options: DataOptions, device: torch.device
) -> tuple[Prepared, EngineChoice] | None:
    """Return the dataset as it was prepared for a run, if it is there in the model's size and a format that is read."""
    folder = find_prepared(origin, options.prepared)
    if folder is None:
        return None
    found = manifests.read(folder)
    if found.train_size != model.image_size:
        return None
    try:
        engine = choose_engine("auto", found.array_layout, found.count, device, found.formats)
    except ValueError:  # none that is installed reads it: another format is prepared
        return None
    log(f"{found.dataset} is prepared already in {folder}.")
    return Prepared(folder, found), engine


def _inspect_own(config: PrepareConfig, origin: Model, is_unchanged: bool) -> DatasetInfo:
    """Inspect the dataset of a run where the run found it.

    Raises:
        ValueError: it is not there, or another dataset has its name.
    """
    if is_path(config.dataset) and not Path(config.dataset).exists():
        raise explain_absence(origin, config.prepared)
    try:
        info = inspect(config)
    except NoDatasetError as error:
        raise explain_absence(origin, config.prepared, str(error)) from None
    sized = at_train_size(info, config, origin.image_size, "")
    if is_unchanged and is_named(origin) and origin.fingerprint not in ("", sized.fingerprint):
        raise ValueError(
            f"{config.dataset} is here another dataset than the {origin.dataset} on which the model was trained: name "
            f"that one with --dataset FOLDER, or this one with --dataset {config.dataset}."
        )
    return info
