"""What a process and its children have used: CPU, bytes read, memory. Linux; elsewhere zeros."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_BLOCK = 1 << 20  # bytes
_LEFT = 0.05  # share of the pages that may stay in the page cache when files are dropped from it
_TICK = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


@dataclass(frozen=True)
class Usage:
    """Since the start of the processes; children count, those that have ended too.

    Attributes:
        cpu_seconds: user and system.
        read_calls: bytes that came through read(), from the page cache or not; memory-mapped files are not in it.
        read_disk: bytes that had to be fetched from storage, memory-mapped files too.
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
    """Megabytes (1e6) of a process and its children; shared pages are counted once, by their proportion.

    Attributes:
        resident: all that is in memory, memory-mapped files included.
        private: without files: what the program allocated, and shared memory between its processes.
    """

    resident: float = 0.0
    private: float = 0.0


def tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    parents = {int(path.name): _stat(int(path.name))[1:2] for path in _PROC.glob("[0-9]*")}
    pids = [pid]
    for parent in pids:
        pids += (child for child, of in parents.items() if of == [str(parent)])
    return pids


def usage(pid: int) -> Usage:
    """Used so far by a process and its children."""
    pids = tree(pid)
    cpu = sum(_cpu_seconds(one) for one in pids)
    files = [_pairs(_PROC / str(one) / "io", ":") for one in pids]
    return Usage(cpu, _sum(files, "rchar"), _sum(files, "read_bytes"))


def memory(pid: int) -> Memory:
    """In use now by a process and its children."""
    parts = [_pairs(_PROC / str(one) / "smaps_rollup", ":") for one in tree(pid)]
    scale = 1024 / 1e6  # from kB as the kernel means them
    return Memory(_sum(parts, "Pss") * scale, (_sum(parts, "Pss_Anon") + _sum(parts, "Pss_Shmem")) * scale)


def _cpu_seconds(pid: int) -> float:
    """Of one process and of its children that have ended, from /proc/<pid>/stat (proc(5): fields 14 to 17)."""
    return sum(map(int, _stat(pid)[11:15])) / _TICK


def _stat(pid: int) -> list[str]:
    """Fields of /proc/<pid>/stat from the third, the state, on; the second, the name, may hold anything."""
    return _text(_PROC / str(pid) / "stat").rpartition(")")[2].split()


def _pairs(path: Path, separator: str) -> dict[str, int]:
    lines = (line.partition(separator) for line in _text(path).splitlines())
    return {name: int(rest.split()[0]) for name, _, rest in lines if rest and rest.split()[0].isdigit()}


def _sum(parts: Iterable[dict[str, int]], name: str) -> int:
    return sum(part.get(name, 0) for part in parts)


def _text(path: Path) -> str:
    """Of a file that may have gone with its process, or that another system does not have."""
    try:
        return path.read_text()
    except OSError:
        return ""


def read_files(paths: Iterable[str | Path]) -> None:
    """Bring files to the page cache; the system may have dropped what nobody read for some minutes."""
    block = bytearray(_BLOCK)
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(block):
                pass


def evict(paths: Sequence[str | Path]) -> bool:
    """Drop files from the page cache, so that the next to read them waits for the disk.

    Returns:
        Whether that worked: pages that any process has mapped stay.
    """
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)  # pages that are not yet written stay
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
    return page_cache_share(paths) <= _LEFT


def page_cache_share(paths: Iterable[str | Path]) -> float:
    """Share of the files' pages; 1 where there are none, or the kernel does not say."""
    mincore = ctypes.CDLL(None).mincore
    pages = present = 0
    for path in paths:
        if not os.path.getsize(path):
            continue
        mapped = np.memmap(path, mode="r")  # no page of it is touched
        flags = np.zeros(-(-mapped.nbytes // mmap.PAGESIZE), np.uint8)
        arguments = (ctypes.c_void_p(mapped.ctypes.data), ctypes.c_size_t(mapped.nbytes))
        if mincore(*arguments, ctypes.c_void_p(flags.ctypes.data)) != 0:
            return 1.0
        pages, present = pages + len(flags), present + int((flags & 1).sum())
    return present / pages if pages else 1.0
