"""Record where and with what a figure was measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch

from trainer_classification.environment import cpu_count

_PACKAGES = (
    "torch", "torchvision", "numpy", "numba", "pillow", "simplejpeg", "ffcv", "nvidia-dali-cuda120", "webdataset",
    "litdata", "mosaicml-streaming", "spdl",
)  # fmt: skip


@cache
def provenance(threads: int = 0) -> dict[str, Any]:
    """Return date, commit, machine, threads, GPU and versions, which every row has."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": _commit(),
        "cpu": f"{_cpu_name()}, {cpu_count()} cores",
        "threads": threads or cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "python": platform.python_version(),
        "versions": _versions(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {"torch": torch.__version__}


def _commit() -> str:
    """Return the commit of these sources, with a plus sign if they were changed.

    Empty outside a repository.
    """
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "--short", "HEAD")
        return commit + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
