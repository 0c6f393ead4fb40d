"""The working folder of prepare: `<target>.partial` until it is complete, then renamed to the target."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from trainer_classification.console import disk_size, log
from trainer_classification.data import manifest
from trainer_classification.data.manifest import FileInfo, Manifest
from trainer_classification.data.source import Source
from trainer_classification.files import parse_json
from trainer_classification.names import safe_component

_MARKER = "fingerprint"  # file in a working folder: what it is for
_PARTIAL = ".partial"
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_OLD = ".old"  # ends the name of a target while it is replaced or deleted


@contextmanager
def lock(target: Path, wait: bool = True) -> Iterator[None]:
    """Let only one process at a time prepare a target.

    The lock ends with the process. Its file stays beside what prepare made, as others
    may wait for it. Where that is nothing, as the work was refused, the file is
    removed, with the folders that were made for it.

    Args:
        target: folder of the prepared dataset.
        wait: for another process.

    Raises:
        BlockingIOError: another process has the lock, and `wait` is False.
    """
    path = target.parent / f".{target.name}.lock"
    try:
        made = [folder for folder in path.parents if not folder.exists()]
        file = _acquire(path, target, wait)
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        yield  # nobody can prepare here, so there is nobody to wait for
        return
    with file:
        try:
            yield
        finally:
            if not (_is_ours(target) or _is_ours(partial_folder(target))):
                with suppress(OSError):  # something else lies there
                    path.unlink()
                    for folder in made:
                        folder.rmdir()


def _acquire(path: Path, target: Path, wait: bool) -> TextIO:
    """Open and lock a file; arguments and errors as of `lock`."""
    while True:
        file = _open_lock(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                file.close()
                raise
            log(f"Another process is preparing {target}; waiting for it.")
            fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # who had the lock has removed its file, and others may lock a new one


def _open_lock(path: Path) -> TextIO:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # who made the folder has just removed it
            return path.open("w", encoding="utf-8")


def partial_folder(target: Path) -> Path:
    """Return the working folder of a target."""
    return target.with_name(target.name + _PARTIAL)


def target_of(folder: Path) -> Path:
    """Return the target that a folder is, or is the working folder or the rest of."""
    return folder.with_name(folder.name.removesuffix(_PARTIAL).removesuffix(_OLD))


def is_old(folder: Path) -> bool:
    """Return True for what is left of a target that was being replaced or deleted."""
    return folder.name.endswith(_OLD)


def notes_path(folder: Path) -> Path:
    """Return the file beside a prepared folder that `reuse.py` notes its images in."""
    return folder.with_name(f".{folder.name}.images.npz")


def list_folders(parent: Path, source: Source) -> list[Path]:
    """Return the folders that prepare made of a dataset, at this place and for this task, in any state.

    Args:
        parent: folder of the prepared datasets.
        source: the dataset's table.
    """
    stem = f"{safe_component(source.name)}-"
    return [
        folder
        for folder in (parent.iterdir() if parent.is_dir() else ())
        if folder.name.startswith(stem) and not folder.is_symlink() and _is_of(folder, source)
    ]


def _is_of(folder: Path, source: Source) -> bool:
    """Return True if a folder bears prepare's manifest or marker, with this dataset, place and task in it."""
    content = manifest.read_any_version(folder) or read_marker(folder)
    root = content.get("root")
    if not isinstance(root, str) or os.path.realpath(root) != os.path.realpath(source.root):
        return False
    return content.get("dataset") == source.name and content.get("task") == source.task


def read_marker(folder: Path) -> dict[str, Any]:
    """Return what a working folder is for, as `claim` wrote it; empty if that is not known."""
    try:
        content = parse_json((folder / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def claim(partial: Path, target: Path, purpose: Mapping[str, str]) -> None:
    """Keep what an interrupted run with the same purpose has left, and delete what any other has.

    Args:
        partial: the working folder.
        target: that it will be.
        purpose: everything that shapes the bytes, and the dataset they are of.

    Raises:
        ValueError: a folder of another origin is where this one has to be.
    """
    marker = partial / _MARKER
    for folder in (partial, target, _old_folder(target)):
        _check_is_ours(folder)
    if read_marker(partial) != purpose:
        shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps(purpose), encoding="utf-8")
    (partial / "parts").mkdir(exist_ok=True)


def _old_folder(target: Path) -> Path:
    """Return the name that a target has while it is replaced."""
    return target.with_name(target.name + _OLD)


def _check_is_ours(folder: Path) -> None:
    """Raise ValueError if a folder holds anything, but neither a manifest nor the marker of an interrupted run."""
    is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if is_free or _is_ours(folder):
        return
    raise ValueError(
        f"{folder} is where this dataset has to be prepared, but was not made by prepare: move it away, or choose "
        f"another folder with --prepared."
    )


def _is_ours(folder: Path) -> bool:
    """Return whether prepare made a folder: it has a manifest, or the marker of an interrupted run."""
    return (folder / _MARKER).is_file() or manifest.is_prepared(folder)


def check_room(parent: Path, needed: int) -> None:
    """Check that the disk of a folder has room for so many more bytes.

    Raises:
        ValueError: it has not.
    """
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise ValueError(
            f"Preparing needs about {disk_size(needed)} in {parent}, and {disk_size(free)} are free: "
            f"free some space, or choose another folder with --prepared."
        )


def used_bytes(folders: Iterable[Path]) -> int:
    """Return the bytes that the content of some folders takes on the disk.

    A file with two names counts once.
    """
    stats = (path.stat() for folder in folders for path in folder.rglob("*"))
    return sum({stat.st_ino: 512 * stat.st_blocks for stat in stats}.values())


def keep_formats(
    target: Path, partial: Path, before: Manifest, rewritten: Collection[str]
) -> dict[str, FileInfo]:
    """Take over the formats that were prepared before, as second names of their files.

    Args:
        target: the folder as it was prepared before.
        partial: gets the files.
        before: manifest of `target`.
        rewritten: formats that are made again.

    Returns:
        The files taken over. Each lies in the folder of its format.
    """
    kept = {}
    for name, info in before.files.items():
        folder = name.partition("/")[0]
        if folder == "table" or folder in rewritten:
            continue
        (partial / name).parent.mkdir(exist_ok=True)
        (partial / name).unlink(missing_ok=True)
        os.link(target / name, partial / name)
        kept[name] = info

    return kept


def publish(partial: Path, target: Path) -> None:
    """Rename the finished working folder to the target, and only then delete what the target was before.

    Raises:
        ValueError: the target is a folder of another origin.
    """
    shutil.rmtree(partial / "parts")
    (partial / _MARKER).unlink()

    old = _old_folder(target)
    for folder in (old, target):
        _check_is_ours(folder)
    _remove(old)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    with suppress(OSError):  # the next one tries again
        _remove(old)


def delete(folder: Path) -> None:
    """Delete a folder that prepare made; while it is, it has a name that nothing is read from.

    Raises:
        ValueError: it was not made by prepare.
        OSError: it cannot be deleted.
    """
    _check_is_ours(folder)
    notes_path(folder).unlink(missing_ok=True)
    if not is_old(folder):
        old = _old_folder(target_of(folder))
        _check_is_ours(old)
        _remove(old)
        folder = folder.rename(old)
    _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder if it is there, its manifest and marker last: what is left tells that it is ours."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in (_MARKER, manifest.FILE_NAME):
            path.unlink()
    shutil.rmtree(folder)
