"""Make stdout and stderr take whatever is written to them: a run does not fail for a character, or for its reader."""

from __future__ import annotations

import io
import os
import sys
from typing import Any


def open_streams(outlive_reader: bool) -> None:
    """Prepare stdout and stderr for a command.

    A character that the terminal lacks is written as an escape. A stream that was
    closed from the start takes everything to nowhere; else the next file that is
    opened would get its place, and what libraries print.

    Args:
        outlive_reader: also go on when nobody reads any more, as after
            `train | head -1` or when a terminal is closed.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name) or _open_nowhere(number)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        is_plain = type(stream) is io.TextIOWrapper  # not that of a test or a notebook
        if outlive_reader and is_plain:
            stream = _outlive(stream)
        setattr(sys, name, stream)


def _open_nowhere(number: int) -> io.TextIOWrapper:
    """Return a stream to nowhere, with its usual number if that is free."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    try:
        os.fstat(number)
    except OSError:
        os.dup2(descriptor, number)
    return open(descriptor, "w", encoding="utf-8", closefd=False)


def _outlive(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """Return a stream in the place of another one that fails when nobody reads it."""
    stream.flush()
    raw = _OutlivingFile(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering or stream.write_through,
    )


class _OutlivingFile(io.FileIO):
    """A stream whose writes never fail: what nobody reads, or has no room, is dropped."""

    def write(self, data: Any) -> int:
        """Write, and return the number of bytes, or as if they were written."""
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes
