"""Ask the system for short time slices, so that threads which wait for each other soon run again.

Torch's threads meet after each operation. Beside other processes, one that wakes
up waits until these have had their slices of some milliseconds. Linux 6.12 and
later give a thread that asks for shorter slices the CPU sooner, and no more of it
(sched_setattr(2), `sched_runtime` of SCHED_OTHER).
"""

from __future__ import annotations

import ctypes
import os

_SLICE = 100_000  # nanoseconds, the least that Linux takes
_OTHER, _BATCH = 0, 3  # policies that share a CPU fairly
_SET, _GET = 314, 315  # the system calls on x86-64, which glibc has functions for since 2.41


class _Attributes(ctypes.Structure):
    """The first version of Linux's `struct sched_attr`, which all later ones begin with."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def shorten_time_slices() -> None:
    """Ask for short time slices for all threads of this process, and those that they start from now on.

    Nothing happens where the system has no such setting, or does not allow it.
    """
    if os.uname()[::4] != ("Linux", "x86_64"):
        return
    libc = ctypes.CDLL(None)
    for name in os.listdir("/proc/self/task"):
        thread = int(name)
        now = _Attributes()
        size = ctypes.sizeof(now)
        failed = libc.syscall(_GET, thread, ctypes.byref(now), size, 0)
        if failed or now.policy not in (_OTHER, _BATCH) or not now.runtime:
            continue  # kernels without the setting say that the slice is 0
        now.runtime = _SLICE
        libc.syscall(_SET, thread, ctypes.byref(now), 0)
