"""Find the images that a command line names."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from trainer_classification.console import log
from trainer_classification.data.folder_notes import note_left_out
from trainer_classification.data.folder_scan import FolderScan, is_folder, scan_images
from trainer_classification.data.image_suffixes import image_suffixes
from trainer_classification.names import printable

STDIN = "-"


def find_images(arguments: Sequence[str], stdin: Iterable[str]) -> Iterator[str]:
    """Yield the paths of all images, in the order of the arguments, and by name within a folder or pattern.

    What is left out of folders, by the rules of `prepare`, is logged.

    Args:
        arguments: files, folders (searched with all that is below), patterns, or
            "-" for a list of files on stdin.
        stdin: the lines of that list; empty ones are passed over.

    Raises:
        ValueError: there is no such file or folder, a folder has no images or
            cannot be read, or nothing matches a pattern. Raised before the first path is yielded.
    """
    if not arguments:
        raise ValueError(
            "No images were named: give files, folders, patterns such as 'photos/*.jpg', or - for stdin."
        )
    found = [argument if argument == STDIN else _find(argument) for argument in arguments]

    return _chain(found, stdin)


def _chain(found: Iterable[str | list[str]], stdin: Iterable[str]) -> Iterator[str]:
    for paths in found:
        if isinstance(paths, list):
            yield from paths
        else:
            yield from (line for text in stdin if (line := text.rstrip("\r\n")))


def _find(argument: str) -> list[str]:
    """Return the files that an argument means."""
    if os.path.isdir(argument):
        return _images_below(argument)
    if os.path.lexists(argument):
        return [argument]
    if not glob.has_magic(argument):
        raise ValueError(f"There is no file or folder {argument}.")
    paths = [path for path in _match(argument) if not os.path.isdir(path)]
    if not paths:
        raise ValueError(f"Nothing matches {argument}.")
    return paths


def _images_below(folder: str) -> list[str]:
    """Return the images of a folder, by the rules of a dataset's class folder, and log what is left out."""
    scan = FolderScan(folder, image_suffixes())
    paths = [os.path.join(folder, path) for path in scan_images(scan)]
    notes = note_left_out(scan)
    if not paths:
        raise ValueError(" ".join([f"The folder {printable(folder)} holds no images.", *notes]))
    for note in notes:
        log(f"{printable(folder)}: {note}")
    return paths


def _match(pattern: str) -> list[str]:
    """Return what matches a pattern, by name; `glob` would follow a link to a folder that it lies in 40 times."""
    parts = pattern.split("/")
    if "**" not in parts:
        return sorted(glob.glob(pattern))
    place = parts.index("**")
    head = "/".join(parts[:place]) or ("/" if place else "")
    tail = "/".join(parts[place + 1 :]) or "*"

    bases = [base for base in glob.glob(head) if os.path.isdir(base)] if head else [""]
    folders = [folder for base in bases for folder in _folders_below(base)]
    found = {path for folder in folders for path in _match(os.path.join(glob.escape(folder), tail))}
    return sorted(found)


def _folders_below(folder: str, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """Yield a folder and all that "**" finds below it, but no link that leads back to one above."""
    status = os.stat(folder or ".")
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    yield folder

    names = []
    with suppress(OSError), os.scandir(folder or ".") as entries:  # as `glob`: what it cannot read
        names = [entry.name for entry in entries if entry.name[0] != "." and is_folder(entry)]
    for name in names:
        yield from _folders_below(os.path.join(folder, name), above | {identity})
