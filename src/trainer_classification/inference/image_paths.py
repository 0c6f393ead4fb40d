"""Find the images that a command line names."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence

from trainer_classification.data.image_suffixes import image_suffixes

STDIN = "-"


def find_images(arguments: Sequence[str], stdin: Iterable[str]) -> Iterator[str]:
    """Yield the paths of all images, in the order of the arguments, and by name within a folder or pattern.

    Args:
        arguments: files, folders (searched with all that is below), patterns, or
            "-" for a list of files on stdin.
        stdin: the lines of that list; empty ones are passed over.

    Raises:
        ValueError: there is no such file or folder, a folder has no images, or
            nothing matches a pattern. Raised before the first path is yielded.
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
        paths = list(_images_below(argument))
        if not paths:
            listed = ", ".join(sorted(image_suffixes()))
            raise ValueError(f"The folder {argument} holds no images: files that end in {listed}.")
        return paths
    if os.path.lexists(argument):
        return [argument]
    if not glob.has_magic(argument):
        raise ValueError(f"There is no file or folder {argument}.")
    paths = [
        path for path in sorted(glob.glob(argument, recursive=True)) if not os.path.isdir(path)
    ]
    if not paths:
        raise ValueError(f"Nothing matches {argument}.")
    return paths


def _images_below(folder: str) -> Iterator[str]:
    suffixes = tuple(image_suffixes())
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        yield from (
            os.path.join(parent, name) for name in sorted(files) if name.lower().endswith(suffixes)
        )
