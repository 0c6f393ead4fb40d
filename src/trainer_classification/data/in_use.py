"""Mark a prepared dataset as in use while a run reads it, so that no other run replaces it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a shared lock on a prepared dataset. It ends with the process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def check_unused(folder: Path) -> None:
    """Check that no run holds a prepared dataset.

    Raises:
        ValueError: one does.
    """
    if not folder.is_dir():
        return
    with exclude_runs(folder) as is_unused:
        if not is_unused:
            raise ValueError(
                f"A run in progress reads {folder}, so it cannot be replaced: wait until the run has ended, or choose "
                f"another folder for the prepared dataset (--prepared)."
            )


@contextmanager
def exclude_runs(folder: Path) -> Iterator[bool]:
    """Lock a prepared dataset against the runs that would read it; give False, and no lock, if one does."""
    descriptor = os.open(folder, os.O_RDONLY)
    is_unused = True
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_unused = False
        except OSError:
            pass  # a file system without locks
        yield is_unused
    finally:
        os.close(descriptor)
