"""Checkpoints: one file with tensors and a JSON text, written whole or not at all.

The file is torch's, `{"meta": str, "state": ...}`, and loads with `weights_only=True`, so reading one runs no code.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

FORMAT_VERSION = 1


def save(path: Path, state: dict[str, Any], meta: dict[str, Any]) -> None:
    """Write atomically: whenever the power fails, `path` is the old file or the new one.

    Args:
        path: of the file.
        state: tensors, or dicts and lists of tensors and numbers.
        meta: whatever JSON can hold.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    content = {"meta": json.dumps({"format_version": FORMAT_VERSION} | meta), "state": state}
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the new name as durable as the content."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Any], dict[str, Any]]:
    """(state, meta) of a checkpoint.

    Raises:
        ValueError: it is not there, damaged, or not one of ours.
    """
    if not path.is_file():
        raise ValueError(f"There is no checkpoint {path}.")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        state, meta = content["state"], json.loads(content["meta"])
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged or not a checkpoint of this program: {error}") from error
    if meta.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {meta.get('format_version')}, this program reads {FORMAT_VERSION}: "
            f"resume it with the program that wrote it."
        )
    return state, meta


def newest(folders: Iterable[Path], project_name: str) -> tuple[Path | None, str]:
    """The newest unfinished `last.pth` of a project below the folders, and why it is this one or none.

    Args:
        folders: searched for `checkpoints/last.pth` of experiments, or `last.pth` itself.
        project_name: that its meta must bear.
    """
    patterns = ("last.pth", "*/checkpoints/last.pth")
    found = {path for folder in folders for pattern in patterns for path in folder.glob(pattern)}
    for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            meta = load(path)[1]
        except ValueError as error:
            return None, f"start anew: {error}"
        if meta["config"]["project_name"] == project_name:
            if meta["finished"]:
                return None, f"start anew: the newest checkpoint of {project_name}, {path}, is of a finished training"
            return path, f"resume {path}, the newest of {project_name}"
    return None, f"start anew: no checkpoint of {project_name} yet"
