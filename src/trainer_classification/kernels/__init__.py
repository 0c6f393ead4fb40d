"""Compiled kernels, and the folder that keeps their code where numba finds none that it may write."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path


def _may_write(folder: Path) -> bool:
    """Return whether files can be made in a folder, or in the one that it would be made in."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)


def _cache_of_user() -> Path:
    """Return numba's own choice where it may not write beside the code."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "numba"


def _keep_code_elsewhere() -> None:
    """Give numba a folder of this user's in the temporary one, where code and home are closed to it.

    Without one it ends with an error at the first kernel, in a container of a
    read-only disk or under a user id without a home. What is loaded from there is
    run, so it must be no one else's.
    """
    if os.environ.get("NUMBA_CACHE_DIR") or _may_write(Path(__file__).parent / "__pycache__"):
        return
    if _may_write(_cache_of_user()):
        return
    with suppress(OSError):
        folder = Path(tempfile.gettempdir()) / f"trainer-classification-{os.getuid()}"
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
        is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
        if not is_own or stat.S_IMODE(status.st_mode) != 0o700:
            folder = Path(tempfile.mkdtemp())
        os.environ["NUMBA_CACHE_DIR"] = str(folder)
        if "numba" in sys.modules:
            sys.modules["numba"].config.CACHE_DIR = str(folder)


_keep_code_elsewhere()
