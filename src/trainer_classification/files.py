"""Read a whole small file, write one atomically, and read and make valid JSON."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    import xxhash

_MAX_BYTES = 1 << 30  # of an image file


def read_file(path: str) -> bytes:
    """Read a file with one system call for its known size.

    For an image this takes a fifth of the time of `Path.read_bytes`.

    Raises:
        OSError: as `open` and `read` do, or it is no regular file: a pipe would be
            waited for, and a device read without an end.
    """
    # Without O_NONBLOCK a pipe is waited for while it is opened.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"is {describe_kind(status.st_mode)}, no regular file")
        size = status.st_size
        if size > _MAX_BYTES:
            raise OSError(f"has {size:,} bytes, more than the {_MAX_BYTES:,} of any image")
        data = os.read(descriptor, size + 1)
    finally:
        os.close(descriptor)
    # The file may have grown, or the system may have returned a part of it.
    return data if len(data) == size else Path(path).read_bytes()


def hash_file(path: Path) -> tuple[int, str]:
    """Return the number of bytes of a file, and its xxh3-128 as hexadecimal digits."""
    import xxhash  # not needed to train on a prepared dataset

    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        size = hash_rest(file, state)
    return size, state.hexdigest()


def hash_rest(file: BinaryIO, state: xxhash.xxh3_128) -> int:
    """Add the rest of a file to a hash, and return its number of bytes."""
    size = 0
    while block := file.read(1 << 20):
        state.update(block)
        size += len(block)
    return size


def describe_kind(mode: int) -> str:
    """Return what a file is by its `st_mode`, with an article: "a pipe"."""
    kinds = {
        stat.S_IFIFO: "a pipe",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
        stat.S_IFDIR: "a folder",
    }
    return kinds.get(stat.S_IFMT(mode), "a special file")


def parse_json(text: str | bytes) -> Any:
    """Return the value that JSON text stands for.

    Raises:
        ValueError: it is no JSON, or is nested deeper than the parser goes.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def check_kinds(value: Any) -> None:
    """Check that the fields of a dataclass that was read from JSON hold what they are annotated with.

    Raises:
        TypeError: one does not; gives its name and value.
    """
    for name, kind in get_type_hints(type(value)).items():
        if not _is_of_kind(getattr(value, name), kind):
            raise TypeError(f"{name} is {str(getattr(value, name))[:60]!r}")


def _is_of_kind(value: Any, kind: Any) -> bool:
    """Return whether a value is of a type, a Literal, or a list or dict of these."""
    origin = get_origin(kind)
    inner = get_args(kind)
    if kind is Any:
        return True
    if origin is Literal:
        return value in inner
    if origin is list:
        return isinstance(value, list) and all(_is_of_kind(entry, inner[0]) for entry in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            _is_of_kind(key, inner[0]) and _is_of_kind(entry, inner[1])
            for key, entry in value.items()
        )
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(
            value, bool
        )
    return isinstance(value, kind)


def dump_json(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON text, with null in place of NaN and infinity, which JSON does not have."""
    return json.dumps(nullify(value), indent=indent, allow_nan=False)


def nullify(value: Any) -> Any:
    """Return JSON types with None in place of every number that is not finite."""
    if isinstance(value, dict):
        return {name: nullify(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [nullify(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_atomically(path: Path, content: bytes | str | Callable[[BinaryIO], object]) -> Path:
    """Write a file so that its name always refers to the complete old or the complete new content.

    This also holds if the power fails: content and name are flushed to the disk.

    Args:
        path: of the file; its folder must exist.
        content: bytes, text (as UTF-8; bytes of a file name that are not UTF-8 as
            escapes), or a function that writes into the open file.

    Returns:
        The path.

    Raises:
        OSError: the disk is full, say, whatever the function makes of that. The
            old file is unchanged, and no temporary file is left.
    """
    temporary = temporary_path(path)
    try:
        raw = _RecordingFile(temporary, "wb")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    try:
        with _NumberlessWriter(raw) as file:
            if callable(content):
                content(file)
            else:
                file.write(
                    content.encode(errors="backslashreplace")
                    if isinstance(content, str)
                    else content
                )
            file.flush()
            raw.sync()
        _rename(temporary, path)
    except Exception as error:
        if raw.error is None:
            raise
        raise OSError(raw.error.errno, raw.error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    flush(path.parent)

    return path


def temporary_path(path: Path) -> Path:
    """Return the path that `write_atomically` writes to before it renames the file."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _rename(temporary: Path, path: Path) -> None:
    """Rename a file; an error names the path that the user knows."""
    try:
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


class _RecordingFile(io.FileIO):
    """A file that keeps the error of a failed write: torch and zipfile raise others in its place.

    Attributes:
        error: of the first write or flush that failed; None if none has.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write as `FileIO` does."""
        try:
            return os.write(self.fileno(), data)
        except OSError as error:
            self.error = self.error or error
            raise

    def sync(self) -> None:
        """Write to the disk what the system still holds of the file."""
        try:
            os.fsync(self.fileno())
        except OSError as error:
            self.error = self.error or error
            raise


class _NumberlessWriter(io.BufferedWriter):
    """A writer that hides its file's descriptor.

    NumPy would write through it, past `_RecordingFile`, and does not say that the
    disk is full.
    """

    def fileno(self) -> int:
        """Raise `io.UnsupportedOperation`."""
        raise io.UnsupportedOperation("fileno")


def is_disk_full(error: Exception) -> bool:
    """Return whether an error says that the disk, or the user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def flush(path: Path) -> None:
    """Write to the disk what the system still holds of a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
