"""Check what a user wants written before any work: that it can be, and that nothing is lost by it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer_classification.files import describe_kind, is_disk_full, temporary_path

_RUN_FOLDERS = ("model", "checkpoints", "data")
_OF_A_RUN = ("model/model.pth", "checkpoints/last.pth", "data/summary.json")
_OF_A_RUN_SUFFIXES = (".json", ".csv")  # a model in another format is no file of the run


@dataclass(frozen=True)
class OutputFile:
    """A file that an option names.

    Attributes:
        option: with its dashes.
        path: as given; "": the option was not given.
        suffix: that its name must end in, with its dot.
    """

    option: str
    path: str
    suffix: str


def check_output_files(
    outputs: Iterable[OutputFile], inputs: Iterable[str] = (), folder: str = ""
) -> None:
    """Check that files can be written, and that none replaces what is read or another one.

    Args:
        outputs: files to write.
        inputs: paths of files that are read; others among them are passed over.
        folder: of a dataset, no file of which may be replaced; "": none.

    Raises:
        ValueError: one has another suffix, is a folder or something special, has no
            folder, cannot be written, is an input, belongs to a dataset or run, or
            is named twice.
        OSError: the disk is full.
    """
    given = [output for output in outputs if output.path]
    read = _identify_files(inputs) if given else {}
    _check_distinct(given)
    for output in given:
        _check_path(output)
        _check_not_read(output, read, folder)
        _check_writable(output)


def _identify_files(paths: Iterable[str]) -> dict[tuple[int, int], str]:
    """Return the path of each file by what tells it from any other, whatever links lead to it."""
    found = {}
    for path in paths:
        try:
            status = os.stat(path)
        except (OSError, ValueError):  # the command itself says what is not there
            continue
        if stat.S_ISREG(status.st_mode):
            found[status.st_dev, status.st_ino] = path
    return found


def _check_path(output: OutputFile) -> None:
    path = Path(output.path)
    named = f"{output.option} {path}"
    if os.path.isdir(path):
        raise ValueError(f"{named} is a folder: name a file in it, which ends in {output.suffix}.")
    if path.suffix.lower() != output.suffix:
        raise ValueError(
            f"{output.option} names the file to write, which must end in {output.suffix}, but is {path}: give "
            "another name."
        )
    if not os.path.isdir(path.parent):
        raise ValueError(f"{named}: there is no folder {path.parent}, make it first.")
    if os.path.exists(path) and not os.path.isfile(path):
        kind = describe_kind(path.stat().st_mode)
        raise ValueError(f"{named} is {kind}, no regular file: give another name.")


def _check_not_read(output: OutputFile, read: dict[tuple[int, int], str], folder: str) -> None:
    """Check that a file that is there already is none that somebody needs."""
    path = Path(output.path)
    if not os.path.exists(path):
        return
    status = path.stat()
    kept = "which would be lost: give another name."
    if (status.st_dev, status.st_ino) in read:
        raise ValueError(f"{output.option} {path} is an input of this command, {kept}")

    owner = _find_owner(path, folder)
    if owner:
        raise ValueError(f"{output.option} {path} is a file of {owner}, {kept}")


def _find_owner(path: Path, folder: str) -> str:
    """Return which dataset or run a file belongs to; "": none."""
    parent = path.resolve().parent
    if folder and Path(folder).is_dir() and path.resolve().is_relative_to(Path(folder).resolve()):
        return f"the dataset {folder}"
    if path.name == "dataset_info.json":
        return f"the dataset {path.parent}"
    if (parent / "manifest.json").is_file() and (parent / "table").is_dir():
        return f"the prepared dataset {path.parent}"

    run = parent.parent
    is_run = parent.name in _RUN_FOLDERS and any((run / name).is_file() for name in _OF_A_RUN)
    return f"the run {run}" if is_run and path.suffix.lower() in _OF_A_RUN_SUFFIXES else ""


def _check_distinct(outputs: Sequence[OutputFile]) -> None:
    """Check that no output replaces another."""
    seen: dict[str, str] = {}
    for output in outputs:
        place = os.path.realpath(output.path)
        if place in seen:
            raise ValueError(
                f"{seen[place]} and {output.option} are the same file, {output.path}: give two names."
            )
        seen[place] = output.option


def _check_writable(output: OutputFile) -> None:
    """Check that a file can be made beside the output, as `write_atomically` will."""
    temporary = temporary_path(Path(output.path))
    try:
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise _explain(f"{output.option} {output.path}", error) from error


def check_output_folder(option: str, folder: Path, dataset: str = "") -> None:
    """Check that files can be made in a folder, which may not be there yet; nothing is left.

    Args:
        option: that names it, with its dashes.
        folder: to write into.
        dataset: folder that is read, and may not be the same; "": none.

    Raises:
        ValueError: it is a file or the dataset's, or nothing can be made in it.
        OSError: the disk is full.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
    if not os.path.isdir(existing):
        raise ValueError(
            f"{option} {folder}: {existing} is {_describe(existing)}, no folder: name another."
        )
    if dataset and os.path.realpath(dataset) == os.path.realpath(folder):
        raise ValueError(
            f"{option} {folder} is the folder of the dataset, whose table would be lost: name another."
        )
    probe = existing / f".{os.getpid()}.tmp"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise _explain(f"{option} {folder}", error) from error


def _describe(path: Path) -> str:
    return "a file" if os.path.isfile(path) else describe_kind(path.stat().st_mode)


def _explain(named: str, error: OSError) -> Exception:
    if is_disk_full(error):
        return error
    return ValueError(f"{named} cannot be written ({error.strerror}): name another place.")
