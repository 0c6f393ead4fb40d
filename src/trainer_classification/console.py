"""Write our lines to the terminal; nothing else in this package does.

Everything goes to stderr: on stdout the platform reads the tracker's lines.
"""

from __future__ import annotations

import os
import sys

_CLEAR_LINE = "\r\x1b[K"


def is_main_process() -> bool:
    """Return True if this process talks to the user: it is the only one, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def log(text: str, every_process: bool = False) -> None:
    """Write a line for the user.

    Args:
        text: one line without its line break, or several.
        every_process: also write it in a process that is not the main one.
    """
    if not (is_main_process() or every_process):
        return
    clear = _CLEAR_LINE if sys.stderr.isatty() else ""
    sys.stderr.write(f"{clear}{text}\n")
    sys.stderr.flush()


def has_live_line() -> bool:
    """Return True if `live_line` shows anything: in the main process, on a terminal."""
    return is_main_process() and sys.stderr.isatty()


def live_line(text: str) -> None:
    """Replace the live line; the next call of this function or of `log` writes over it.

    It is cut at the edge of the terminal: of a line that is broken there, only the
    last part would be written over.
    """
    if has_live_line():
        width = _width()
        sys.stderr.write(_CLEAR_LINE + (text[: width - 1] if width else text))
        sys.stderr.flush()


def _width() -> int:
    """Return the columns of the terminal; 0 where it does not tell."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        return 0


def duration(seconds: float, short: bool = False) -> str:
    """Format seconds as 45 s, 3:07 min or 1:02:09 h.

    Args:
        seconds: to format.
        short: as one word, for a table: 45s, 3:07 or 1:02:09.
    """
    text = _format_duration(seconds)
    return text.replace(" s", "s").split()[0] if short else text


def _format_duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02} h"


def disk_size(count: int) -> str:
    """Format bytes in the unit that shows them, with two digits or three: 240 MB, 1.2 GB, 0 kB."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            digits = 1 if count < 10 * size else 0
            return f"{count / size:.{digits}f} {unit}"
    return f"{max(0, count) / 1e3:.0f} kB"
