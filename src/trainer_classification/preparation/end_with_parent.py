"""Imported by the process that workers are forked from: it ends with the process that has started it.

While it serves, it notices that by a pipe. While it still imports and compiles,
only the kernel can tell.
"""

from __future__ import annotations

import ctypes
import os
import signal

PARENT_VARIABLE = "TRAINER_FORK_SERVER_PARENT"  # its number; only the server has it
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>; forked processes do not inherit it


def _end_with(parent: str) -> None:
    """Ask the kernel for a signal when a process ends, and end if it has ended before."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if str(os.getppid()) != parent:
            os._exit(1)


if PARENT_VARIABLE in os.environ:
    _end_with(os.environ.pop(PARENT_VARIABLE))
