"""Measure what a process and its children use: CPU, bytes read, memory. On Linux only; elsewhere all are zero."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_BLOCK = 1 << 20  # bytes
_MAX_CACHED = (
    0.05  # share of the pages that may stay in the page cache after files are dropped from it
)
_TICK = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


@dataclass(frozen=True)
class Usage:
    """What processes have used since their start, children that have ended included.

    Attributes:
        cpu_seconds: user and system time.
        read_calls: bytes returned by read(), from the page cache or not, without
            memory-mapped files.
        read_disk: bytes fetched from storage, with memory-mapped files.
    """

    cpu_seconds: float
    read_calls: int
    read_disk: int

    def __sub__(self, before: Usage) -> Usage:
        return Usage(
            self.cpu_seconds - before.cpu_seconds,
            self.read_calls - before.read_calls,
            self.read_disk - before.read_disk,
        )


@dataclass(frozen=True)
class Memory:
    """Megabytes (1e6 bytes) of a process and its children.

    Shared pages count once, by their proportion.

    Attributes:
        resident: all that is in memory, with memory-mapped files.
        private: without files: what the program allocated, and shared memory
            between its processes.
    """

    resident: float = 0.0
    private: float = 0.0


def list_processes(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    parents = {int(path.name): _stat(int(path.name))[1:2] for path in _PROC.glob("[0-9]*")}
    pids = [pid]
    for parent in pids:
        pids += (child for child, of in parents.items() if of == [str(parent)])
    return pids


def usage(pid: int) -> Usage:
    """Return what a process and its children have used so far."""
    pids = list_processes(pid)
    cpu = sum(_cpu_seconds(one) for one in pids)
    files = [_pairs(_PROC / str(one) / "io", ":") for one in pids]
    return Usage(cpu, _sum(files, "rchar"), _sum(files, "read_bytes"))


def memory(pid: int) -> Memory:
    """Return the memory that a process and its children use now."""
    parts = [_pairs(_PROC / str(one) / "smaps_rollup", ":") for one in list_processes(pid)]
    scale = 1024 / 1e6  # the kernel's kB are 1024 bytes
    return Memory(
        _sum(parts, "Pss") * scale, (_sum(parts, "Pss_Anon") + _sum(parts, "Pss_Shmem")) * scale
    )


def _cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process and its ended children, from /proc/<pid>/stat (proc(5): fields 14 to 17)."""
    return sum(map(int, _stat(pid)[11:15])) / _TICK


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the third, the state, on.

    The second, the name, may hold anything.
    """
    return _text(_PROC / str(pid) / "stat").rpartition(")")[2].split()


def _pairs(path: Path, separator: str) -> dict[str, int]:
    lines = (line.partition(separator) for line in _text(path).splitlines())
    return {
        name: int(rest.split()[0]) for name, _, rest in lines if rest and rest.split()[0].isdigit()
    }


def _sum(parts: Iterable[dict[str, int]], name: str) -> int:
    return sum(part.get(name, 0) for part in parts)


def _text(path: Path) -> str:
    """Read a file. Empty where it has gone with its process, or another system does not have it."""
    try:
        return path.read_text()
    except OSError:
        return ""


def read_files(paths: Iterable[str | Path]) -> None:
    """Read files into the page cache, since the system may have dropped what nobody read for some minutes."""
    block = bytearray(_BLOCK)
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(block):
                pass


def evict(paths: Sequence[str | Path]) -> bool:
    """Drop files from the page cache, so that the next reader waits for the disk.

    Returns:
        True if that worked. Pages that any process has memory-mapped stay.
    """
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)  # pages that are not yet written would stay
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
    return page_cache_share(paths) <= _MAX_CACHED


def page_cache_share(paths: Iterable[str | Path]) -> float:
    """Return the share of the files' pages in the page cache.

    1 where there are no files or the kernel does not say.
    """
    mincore = ctypes.CDLL(None).mincore
    pages = 0
    present = 0
    for path in paths:
        if not os.path.getsize(path):
            continue
        mapped = np.memmap(path, mode="r")  # no page of it is touched
        flags = np.zeros(-(-mapped.nbytes // mmap.PAGESIZE), np.uint8)
        arguments = (ctypes.c_void_p(mapped.ctypes.data), ctypes.c_size_t(mapped.nbytes))
        if mincore(*arguments, ctypes.c_void_p(flags.ctypes.data)) != 0:
            return 1.0
        pages += len(flags)
        present += int((flags & 1).sum())

    return present / pages if pages else 1.0
