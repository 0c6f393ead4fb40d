"""The live line, on a terminal alone, and the lines of an epoch; all on stderr, as stdout is the platform's."""

from __future__ import annotations

import os
import sys


def is_main_process() -> bool:
    """Whether this process speaks to the user: the first of several."""
    return os.environ.get("RANK", "0") == "0"


def log(text: str) -> None:
    """A line for the user."""
    if not is_main_process():
        return
    sys.stderr.write(("\r\x1b[K" if sys.stderr.isatty() else "") + text + "\n")
    sys.stderr.flush()


def duration(seconds: float) -> str:
    """As 45 s, 3:07 min or 1:02:09 h."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02} h"
