"""Inspect the dataset of a training, decide, and prepare what the decisions need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer_classification.config import PrepareConfig, TrainConfig
from trainer_classification.training.distributed import World
from trainer_classification.training.resolve import Resolved, resolve


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
    options = PrepareConfig(
        dataset=config.dataset,
        task=config.task,
        out=config.prepared,
        image_size=config.resize,
        validation_fraction=config.validation_fraction,
        on_bad_image=config.on_bad_image,
        workers=config.num_workers,
    )
    info = inspect(options)
    resolved = resolve(config, info, world)
    return write(info, resolved.formats), resolved


# Adapter to `preparation.pipeline.prepare`, until `preparation.inspect.inspect` and `preparation.pipeline.write` exist.


@dataclass(frozen=True)
class _DatasetInfo:
    config: PrepareConfig
    name: str
    resized: bool
    array_bytes: int


def inspect(config: PrepareConfig) -> _DatasetInfo:
    """Look at a dataset without writing anything."""
    import dataclasses

    from trainer_classification.data.source import find_dataset
    from trainer_classification.preparation import inspect as sizes
    from trainer_classification.preparation import pipeline

    source = find_dataset(config.dataset, config.task)
    source = dataclasses.replace(source, sizes=sizes.sizes(source))
    layout = pipeline._geometry(config, source)[0]
    return _DatasetInfo(config, source.name, layout.resized, len(source.files) * layout.side**2 * layout.channels)


def write(info: _DatasetInfo, formats: tuple[str, ...]) -> Path:
    """Prepare the formats that are missing, and return the folder."""
    from trainer_classification.preparation.pipeline import prepare  # decoders and polars: not needed on a bare machine

    return prepare(info.config, lambda *_: formats).folder
