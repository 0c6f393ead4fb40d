"""Write and read checkpoints: one file with tensors and a JSON text, written atomically.

The file is torch's, `{"meta": str, "state": ...}`. It loads with
`weights_only=True`, so reading one runs no code.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from trainer_classification.checkpoint.meta import CheckpointMeta
from trainer_classification.files import write_atomically


def save(path: Path, tensors: dict[str, Any], meta: CheckpointMeta) -> None:
    """Write a checkpoint; if the power fails, `path` is the complete old file or the complete new one.

    Args:
        path: of the file.
        tensors: tensors by name, or dicts and lists of tensors and numbers.
        meta: describes them.
    """
    content = {"meta": meta.to_text(), "state": tensors}
    write_atomically(path, lambda file: torch.save(content, file))


def load(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Any], CheckpointMeta]:
    """Read a checkpoint.

    Args:
        path: of the file.
        device: that gets the tensors.

    Returns:
        Its tensors, as they were saved, and its description.

    Raises:
        ValueError: it does not exist, is damaged, or is not a checkpoint of this
            program.
    """
    return _read(path, device, mmap=False)


def load_meta(path: Path) -> CheckpointMeta:
    """Read only the description of a checkpoint; its tensors stay on the disk.

    Raises as `load` does.
    """
    return _read(path, "cpu", mmap=True)[1]


def load_resumable_meta(path: Path) -> CheckpointMeta:
    """Read the description of a checkpoint that a training can continue from.

    Raises:
        ValueError: as `load` does, or the file holds weights only.
    """
    tensors, meta = _read(path, "cpu", mmap=True)
    if "optimizer" not in tensors:
        raise ValueError(
            f"{path} holds weights only, without the state of the optimizer, so no training can continue from it: "
            f"resume the run's last.pth, or start a new training from these weights with --weights {path}."
        )
    return meta


def _read(
    path: Path, device: torch.device | str, mmap: bool
) -> tuple[dict[str, Any], CheckpointMeta]:
    if not path.is_file():
        raise ValueError(f"There is no checkpoint {path}.")
    try:
        content = torch.load(path, map_location=device, weights_only=True, mmap=mmap)
        tensors = content["state"]
        description = json.loads(content["meta"])
    except Exception as error:  # torch, zip and pickle raise many kinds on damaged files
        raise ValueError(
            f"{path} is damaged or not a checkpoint of this program: {describe_failure(error)}"
        ) from error
    try:
        return tensors, CheckpointMeta.from_json(description)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error


def describe_failure(error: Exception) -> str:
    """Return why `torch.load` did not load a file.

    Of a file that holds other things than tensors torch says that it could be loaded
    by a way that runs whatever code is in it. That is not what a user should do.
    """
    if isinstance(error, pickle.UnpicklingError):
        return "it holds something else than tensors"
    return str(error)


def find_newest(
    folders: Iterable[Path], project_name: str, has_outputs: Callable[[Path], bool]
) -> tuple[Path | None, str]:
    """Find the newest `last.pth` of a project whose run has not written all its outputs.

    Args:
        folders: searched for `last.pth`, and for `checkpoints/last.pth` of
            experiments.
        project_name: of the training, as its description has it.
        has_outputs: tells whether the run of a finished checkpoint has written
            everything.

    Returns:
        Its path or None, and the reason.
    """
    patterns = ("last.pth", "*/checkpoints/last.pth")
    found = {path for folder in folders for pattern in patterns for path in folder.glob(pattern)}
    for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            meta = load_meta(path)
        except ValueError as error:
            return None, f"--resume auto starts a new training: {error}"
        if meta.project_name != project_name:
            continue
        if not meta.progress.finished:
            return path, f"resume {path}, the newest of {project_name}"
        if not has_outputs(path):
            return path, f"{path} is trained to the end, but its run has not written its outputs"
        return (
            None,
            f"--resume auto starts a new training: the newest of {project_name}, {path}, is finished",
        )

    return (
        None,
        f"--resume auto starts a new training: there is no checkpoint of {project_name} yet",
    )
