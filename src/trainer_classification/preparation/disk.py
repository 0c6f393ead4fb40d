"""Where prepared shards go in the cloud: the fastest local disk that has room for them."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

_PROBE = 32 << 20  # bytes written to compare disks
_IN_MEMORY = ("tmpfs", "ramfs")  # /dev/shm and the like: as fast, but the training needs that memory


def candidates() -> list[Path]:
    """Folders of a container that may lie on disks of their own; none that the platform keeps after the run."""
    return [Path(tempfile.gettempdir()), Path("/var/tmp"), Path.home(), Path("/opt/ml"), Path(".data").absolute()]


def choose(folders: Sequence[Path], name: str, need: int) -> tuple[Path, str]:
    """The folder to keep the prepared dataset `name` in, and why.

    One that holds it already, or what an interrupted run has made of it; else of those that can be written to, have
    `need` bytes free and are no memory, the one that takes 32 MB the fastest. Folders of one disk count once, the first
    of them.

    Raises:
        ValueError: none has room; says what each has.
    """
    for folder in folders:
        if (folder / "prepared" / name).is_dir():
            return folder / "prepared", "it is there already"
    for folder in folders:
        if (folder / "prepared" / f"{name}.partial").is_dir():
            return folder / "prepared", "it has been begun there"
    disks: dict[int, Path] = {}
    for folder in folders:
        if os.access(folder, os.W_OK) and _file_system(folder) not in _IN_MEMORY:
            disks.setdefault(folder.stat().st_dev, folder)
    free = {folder: shutil.disk_usage(folder).free for folder in disks.values()}
    roomy = [folder for folder in free if free[folder] >= need]
    if not roomy:
        found = ", ".join(f"{folder} {_gb(size)} free" for folder, size in free.items()) or "no disk to write to"
        raise ValueError(
            f"Preparing needs about {_gb(need)} on one disk, and there is {found}. Train at a smaller --resize, or "
            f"name another folder with --prepared."
        )
    best = roomy[0] if len(roomy) == 1 else min(roomy, key=_seconds_to_write)
    others = "" if len(free) == 1 else f", the fastest of {len(roomy)} disks with room"
    return best / "prepared", f"{_gb(free[best])} free of which it takes up to {_gb(need)}{others}"


def _file_system(folder: Path) -> str:
    """As the kernel names it: ext4, overlay, tmpfs, nfs4 ...; empty where there is no /proc."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return ""
    resolved = folder.resolve()
    above = [(len(at), kind) for _, at, kind, *_ in mounts if resolved.is_relative_to(at)]
    return max(above)[1] if above else ""


def _seconds_to_write(folder: Path) -> float:
    """To have 32 MB on the disk; infinite where it fails."""
    started = time.perf_counter()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return float("inf")
    return time.perf_counter() - started


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
