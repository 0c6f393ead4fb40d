"""Delete what was prepared of a dataset and is no longer needed."""

from __future__ import annotations

import os
from pathlib import Path

from trainer_classification.config import PrepareConfig
from trainer_classification.console import log
from trainer_classification.data import manifest
from trainer_classification.data.in_use import exclude_runs
from trainer_classification.data.source import Source
from trainer_classification.names import safe_component
from trainer_classification.preparation import partial
from trainer_classification.preparation.inspect import DatasetInfo, inspect


def clean(config: PrepareConfig) -> list[Path]:
    """Delete what was prepared of a dataset from older files or for other options than those given.

    Only folders that prepare made are deleted, and of these only those of the
    same dataset, from the same place and for the same task. One that a run reads,
    or that another process prepares, stays.

    Args:
        config: names the dataset, and the options that are still needed.

    Returns:
        The deleted folders.

    Raises:
        ValueError: the dataset is not found, or its table is wrong.
        OSError: a folder cannot be deleted.
    """
    info = inspect(config)
    kept = (info.folder, partial.partial_folder(info.folder))
    found = [folder for folder in _list_of_dataset(info) if folder not in kept]
    deleted = []
    freed = 0
    for folder in found:
        size = partial.used_bytes([folder])
        if _delete_unused(folder):
            log(f"Deleted {folder} ({size / 1e6:,.1f} MB).")
            deleted.append(folder)
            freed += size

    log(
        f"Deleted {len(deleted)} of {len(found)} folders with older files or other options of {info.name} "
        f"({freed / 1e6:,.1f} MB). What these options need is {info.folder}."
    )

    return deleted


def _list_of_dataset(info: DatasetInfo) -> list[Path]:
    """Return the folders that prepare made of a dataset, half-deleted ones first."""
    parent = info.folder.parent
    stem = f"{safe_component(info.source.name)}-"
    folders = [
        folder
        for folder in (parent.iterdir() if parent.is_dir() else ())
        if folder.name.startswith(stem) and not folder.is_symlink() and _is_of(folder, info.source)
    ]
    return sorted(folders, key=lambda folder: (not partial.is_old(folder), folder.name))


def _is_of(folder: Path, source: Source) -> bool:
    """Return True if a folder bears prepare's manifest or marker, with this dataset, place and task in it."""
    content = manifest.read_any_version(folder) or partial.read_marker(folder)
    root = content.get("root")
    if not isinstance(root, str) or os.path.realpath(root) != os.path.realpath(source.root):
        return False
    return content.get("dataset") == source.name and content.get("task") == source.task


def _delete_unused(folder: Path) -> bool:
    """Delete a folder unless it is in use, and return whether it is gone."""
    target = partial.target_of(folder)
    try:
        with partial.lock(target, wait=False), exclude_runs(folder) as is_unused:
            if is_unused:
                partial.delete(folder)
            else:
                log(f"{folder} stays: a run in progress reads it.")
            return is_unused
    except BlockingIOError:
        log(f"{folder} stays: another process is preparing it.")
        return False
