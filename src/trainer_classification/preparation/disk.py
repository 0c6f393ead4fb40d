"""Choose the disk for prepared shards in the cloud: the fastest local one that has room for them."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from trainer_classification.console import disk_size

_PROBE_BYTES = 32 << 20
_MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")  # as fast as /dev/shm, but training needs that memory


def candidates() -> list[Path]:
    """Return folders of a container that may be on disks of their own, and that the platform does not keep."""
    return [
        Path(tempfile.gettempdir()),
        Path("/var/tmp"),
        Path.home(),
        Path("/opt/ml"),
        Path(".data").absolute(),
    ]


def choose_disk(folders: Sequence[Path], name: str, needed: int) -> tuple[Path, str]:
    """Choose the folder to keep a prepared dataset in.

    A folder that holds the dataset, or what an interrupted run has left of it,
    comes first. Else it is the fastest disk that can be written to, has room and
    is no memory. Of several folders on one disk the first counts.

    Args:
        folders: to choose from.
        name: of the prepared dataset.
        needed: bytes that have to be free.

    Returns:
        (folder, reason).

    Raises:
        ValueError: no disk has room; says how much each has.
    """
    for folder in folders:
        if (folder / "prepared" / name).is_dir():
            return folder / "prepared", "the dataset is there already"
    for folder in folders:
        if (folder / "prepared" / f"{name}.partial").is_dir():
            return folder / "prepared", "an interrupted run has started there"

    free = {folder: shutil.disk_usage(folder).free for folder in _one_folder_per_disk(folders)}
    with_room = [folder for folder in free if free[folder] >= needed]
    if not with_room:
        found = ", ".join(f"{folder} {disk_size(size)} free" for folder, size in free.items())
        raise ValueError(
            f"Preparing needs about {disk_size(needed)} on one disk, and there is {found or 'no disk to write to'}. "
            f"Train at a smaller --image-size, or name another folder with --prepared."
        )

    best = with_room[0] if len(with_room) == 1 else min(with_room, key=_seconds_to_write)
    reason = f"{disk_size(free[best])} free of which it takes up to {disk_size(needed)}"
    if len(free) > 1:
        reason += f", the fastest of {len(with_room)} disks with room"
    return best / "prepared", reason


def _one_folder_per_disk(folders: Sequence[Path]) -> list[Path]:
    disks: dict[int, Path] = {}
    for folder in folders:
        if os.access(folder, os.W_OK) and _file_system(folder) not in _MEMORY_FILE_SYSTEMS:
            disks.setdefault(folder.stat().st_dev, folder)
    return list(disks.values())


def _file_system(folder: Path) -> str:
    """Return the kernel's name of a file system (ext4, overlay, tmpfs, nfs4 ...), or "" where there is no /proc."""
    try:
        mounts = [
            line.split()
            for line in Path("/proc/mounts")
            .read_text(encoding="utf-8", errors="replace")
            .splitlines()
        ]
    except OSError:
        return ""
    resolved = folder.resolve()
    above = [(len(point), kind) for _, point, kind, *_ in mounts if resolved.is_relative_to(point)]
    return max(above)[1] if above else ""


def _seconds_to_write(folder: Path) -> float:
    """Return the seconds it takes to write and fsync 32 MB, or infinity on failure."""
    started = time.perf_counter()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return float("inf")
    return time.perf_counter() - started
