"""This package's engines, as its registry lists them: the only place where the benchmarks read that registry."""

from __future__ import annotations

from trainer_classification.loaders.base import Loader, LoaderRequest
from trainer_classification.loaders.registry import ENGINES, choose_engine, open_loader

OURS = tuple(ENGINES)


def required_module(engine: str) -> str:
    """Return the module that an engine needs, or an empty string."""
    return ENGINES[engine].module


def install_command(engine: str) -> str:
    """Return how to install that module."""
    return ENGINES[engine].install


def formats(engine: str, resized: bool) -> tuple[str, ...]:
    """Return the prepared formats that an engine reads.

    Empty: it reads the original files.
    """
    return ENGINES[engine].formats(resized)


def open_engine(engine: str, request: LoaderRequest) -> Loader:
    """Open the loader of a split by the name of its engine.

    Raises:
        ValueError: the engine is not installed, or the split or its format is
            missing or damaged.
    """
    manifest = request.manifest
    choice = choose_engine(engine, manifest.array_layout, manifest.count, request.device)
    return open_loader(choice, request)
