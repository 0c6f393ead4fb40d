"""What this process runs in: CPUs, a launcher, the platform's cloud."""

from __future__ import annotations

import os

_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what a launcher sets


def cpu_count() -> int:
    """CPUs that this process may use: a container is often given fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def launched() -> bool:
    """Whether this process is one of several that a launcher (ours or torchrun) started."""
    return all(name in os.environ for name in _LAUNCHED)


def in_cloud() -> bool:
    """Whether this is a run of Training-aaS; by the SDK's own rule."""
    return os.environ.get("HAFNIA_CLOUD", "").lower() == "true"
