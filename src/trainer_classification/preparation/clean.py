"""Delete what was prepared of a dataset and is no longer needed."""

from __future__ import annotations

from pathlib import Path

from trainer_classification.config import PrepareConfig
from trainer_classification.console import log
from trainer_classification.data.in_use import exclude_runs
from trainer_classification.preparation import partial
from trainer_classification.preparation.inspect import inspect


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
    folders = partial.list_folders(info.folder.parent, info.source)
    found = [folder for folder in folders if folder not in kept]
    found.sort(key=lambda folder: (not partial.is_old(folder), folder.name))  # half-deleted first
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
