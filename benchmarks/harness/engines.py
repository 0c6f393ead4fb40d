"""This package's engines, as its registry lists them: the only place where the benchmarks read that registry."""

from __future__ import annotations

from trainer_classification.loaders import registry
from trainer_classification.loaders.base import Loader, LoaderRequest

# Until the registry has ENGINES, this module reads what it has today.
OURS: tuple[str, ...] = ("resident", *registry.INSTALL)


def required_module(engine: str) -> str:
    """Return the module that an engine needs, or an empty string."""
    return registry._MODULES.get(engine, "")


def install_command(engine: str) -> str:
    """Return how to install that module."""
    return registry.INSTALL.get(engine, "")


def formats(engine: str, resized: bool) -> tuple[str, ...]:
    """Return the prepared formats that an engine reads. Empty: it reads the original files."""
    return registry._needs(engine, resized)


def open_engine(engine: str, request: LoaderRequest) -> Loader:
    """Open the loader of a split by the name of its engine.

    Raises:
        ValueError: the engine is not installed, or the split or its format is missing or damaged.
    """
    return registry.open_loader(
        request.folder,
        request.manifest,
        request.split,
        loader=engine,
        plan=request.plan,
        batch_size=request.batch_size,
        image_size=request.image_size,
        device=request.device,
        threads=request.threads,
    )[0]
