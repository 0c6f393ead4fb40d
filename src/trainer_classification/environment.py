"""Describe where this process runs: CPUs, memory, the launcher, the platform's cloud."""

from __future__ import annotations

import ctypes
import getpass
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_CGROUP = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 62  # bytes
_PROC = Path("/proc")
# Controller and files with quota and period of both versions of cgroups, in microseconds
_CPU_LIMITS = (
    ("", ("cpu.max",)),
    ("cpu", ("cpu.cfs_quota_us", "cpu.cfs_period_us")),
)
_LOOKS = 3  # at who runs: others may run for a moment only


@dataclass(frozen=True)
class _CgroupFiles:
    """Where one version of cgroups keeps its numbers, and the prefix of the names in its `memory.stat`."""

    folder: str
    limit: str
    usage: str
    prefix: str


_CGROUP_VERSIONS = (
    _CgroupFiles("", "memory.max", "memory.current", ""),
    _CgroupFiles("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
)


@dataclass(frozen=True)
class ThreadPlan:
    """How many threads a process takes, so that all of them together do not exceed its CPUs.

    Our compiled kernels have no threads of their own: each call is one thread, of the
    loader.

    Attributes:
        compute: of torch, from affinity and quota alone: other threads would sum in
            another order.
        loader: that make batches, of the CPUs that others leave.
    """

    compute: int
    loader: int


def plan_threads(processes: int = 1, computes: bool = True) -> ThreadPlan:
    """Plan the threads of one of several equal processes on this machine.

    Args:
        processes: that share the CPUs of this one.
        computes: whether the CPUs compute, too. The loader then gets half of them:
            batches take less time than steps.
    """
    whole_cpus = math.floor(min(_allowed_cpus(), cpu_quota()))
    spare = spare_cpus(ours=processes - 1) // processes
    return ThreadPlan(
        compute=max(1, whole_cpus // processes), loader=max(1, spare // 2 if computes else spare)
    )


def cpu_count() -> int:
    """Return the number of CPUs this process may use; in a container often fewer than the machine has.

    A part of a CPU counts as one: workers that do not wait for each other use it. Torch's
    threads do, see `plan_threads`.
    """
    return max(1, math.ceil(min(_allowed_cpus(), cpu_quota())))


def spare_cpus(ours: int = 0) -> int:
    """Return how many of this process's CPUs are its fair share beside what runs on the machine now.

    Args:
        ours: threads among those that belong to this run, in other processes.
    """
    others = max(0, other_threads() - ours)
    return max(1, int(cpu_count() / (1 + others / (os.cpu_count() or 1))))


def other_threads() -> int:
    """Return how many threads of other processes run now, or wait for a CPU."""
    return min(_count_others() for _ in range(_LOOKS))


def _count_others() -> int:
    try:
        running = int((_PROC / "loadavg").read_text(encoding="utf-8").split()[3].partition("/")[0])
        tasks = list((_PROC / "self/task").iterdir())
    except (OSError, ValueError, IndexError):  # not Linux
        return 0
    own = 0
    for task in tasks:
        with suppress(OSError, IndexError):  # it may have ended
            own += (task / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "R"
    return max(0, running - own)


def cpu_quota() -> float:
    """Return the CPUs whose time the container grants, such as 1.5; infinite without a limit.

    The least of the process's cgroup and those above it.
    """
    return min(
        _read_quota(folder, names)
        for controller, names in _CPU_LIMITS
        for folder in _cgroup_folders(controller)
    )


def _cgroup_folders(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's cgroup and of those above it, of version 2 or a controller of version 1."""
    root = _CGROUP / controller
    lines: list[str] = []
    with suppress(OSError):
        lines = (_PROC / "self/cgroup").read_text(encoding="utf-8").splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            own = root / path.lstrip("/")
            yield own
            yield from (folder for folder in own.parents if folder.is_relative_to(root))
    yield root


def _read_quota(folder: Path, names: tuple[str, ...]) -> float:
    """Return the CPUs that one cgroup grants; infinite without a limit."""
    try:
        words = [
            word for name in names for word in (folder / name).read_text(encoding="utf-8").split()
        ]
        quota = int(words[0])
        period = int(words[1])
    except (OSError, ValueError, IndexError):  # the other version, or "max"
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf


def wait_passively_on_shared_cpus(adapts: bool = False) -> None:
    """Let idle OpenMP threads sleep where others need the CPUs; call it before torch is imported.

    They would spin for a while after each operation. On a CPU that is shared they
    spin in place of the thread that works, and a step takes ten times as long.

    Args:
        adapts: whether the command looks at the load while it runs, see
            `training.idle_threads`; then only a quota counts.
    """
    is_limited = cpu_quota() < _allowed_cpus()
    if is_limited or (not adapts and other_threads() > 0):
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _allowed_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def launched() -> bool:
    """Return True if a launcher (ours or torchrun) started this process as one of several."""
    return all(name in os.environ for name in _LAUNCHER_VARIABLES)


def on_several_machines() -> bool:
    """Return True if a launcher has started processes on other machines, too."""
    return launched() and os.environ["WORLD_SIZE"] != os.environ.get("LOCAL_WORLD_SIZE")


def in_cloud() -> bool:
    """Return True in a run of Training-aaS; this is the SDK's own rule."""
    return os.environ.get("HAFNIA_CLOUD", "").lower() == "true"


def name_user() -> None:
    """Give the user a name, and a home where there is none: containers run under ids that no one has entered.

    torch asks for the name when it chooses its cache, and ends with a KeyError
    without one.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"uid{os.getuid()}"
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.gettempdir()


def free_memory() -> int:
    """Return the bytes of host memory that can be had without swapping, within the container's limit.

    Without psutil, as on a bare machine, this is a number that is never reached.
    """
    try:
        import psutil
    except ModuleNotFoundError:
        return _UNLIMITED
    available = int(psutil.virtual_memory().available)
    return min(available, *(_free_in_cgroup(files) for files in _CGROUP_VERSIONS))


def total_memory() -> int:
    """Return the bytes of memory of the machine, or the container's limit if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(total, *(_cgroup_limit(files) for files in _CGROUP_VERSIONS))


def _cgroup_limit(files: _CgroupFiles) -> int:
    try:
        return int((_CGROUP / files.folder / files.limit).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the other version, or "max"
        return _UNLIMITED


def _free_in_cgroup(files: _CgroupFiles) -> int:
    """Return the bytes up to a cgroup's limit; cached files count as free, because the kernel can drop them."""
    limit = _cgroup_limit(files)
    folder = _CGROUP / files.folder
    try:
        used = int((folder / files.usage).read_text(encoding="utf-8"))
        stat = dict(
            line.split()
            for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
        )
    except (OSError, ValueError):
        return _UNLIMITED
    cached = sum(int(stat.get(f"{files.prefix}{kind}_file", 0)) for kind in ("inactive", "active"))
    return max(0, min(limit, limit - used + cached))


_M_TRIM_THRESHOLD = -1  # from glibc's malloc.h
_M_TOP_PAD = -2
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8


def release_freed_memory() -> None:
    """Give memory that is free back to the system, where glibc's malloc keeps it for later."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@cache
def keep_freed_memory() -> None:
    """Let glibc's malloc keep the memory of freed tensors, of up to a gigabyte, for the next ones.

    By default it gives blocks above 32 MB back at once, and the larger layers of a
    network on the CPU get their memory page by page from the kernel again: a
    quarter of the time of an EfficientNet-Lite0 at 224 px
    (findings/torch_cpu_page_faults.sh). Other C libraries have no such setting.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)  # those of threads hold 64 MB at most
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)
        mallopt(_M_TOP_PAD, 64 << 20)
