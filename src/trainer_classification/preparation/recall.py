"""Recall what an earlier run found of a dataset, if nothing has changed since.

Finding it anew takes a table library, the SDK and decoders, whose imports take
longer than a small epoch. What is recalled is what `inspect` would find: the notes
are kept, and what its fingerprint is made of (the table, and the size of every
file) is compared, and the time at which each file was changed. Only Hafnia datasets
in a folder are recalled. Images in class folders have to be listed anyway.
"""

from __future__ import annotations

import dataclasses
import json
import os
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from trainer_classification.config import PrepareConfig
from trainer_classification.console import log
from trainer_classification.data import manifest
from trainer_classification.data.file_names import read_names
from trainer_classification.data.formats import ArrayLayout
from trainer_classification.data.hafnia_table import INFO, TABLES
from trainer_classification.data.manifest import Manifest
from trainer_classification.environment import in_cloud
from trainer_classification.files import check_kinds, parse_json
from trainer_classification.storage import is_url

_VERSION = 3  # raise it when `inspect` comes to find something else in the same files
FILES_KEY = b', "files": '  # the last of a note: many names, which are not read as one text
# Options that say what to do with a dataset, not what it is
_ACTION_OPTIONS = (
    *("prepared", "formats", "beton_mode", "beton_side"),
    *("workers", "memory", "on_bad_image", "force", "verify", "clean"),
)


@dataclass(frozen=True)
class RecalledDataset:
    """A dataset that is prepared, as `training.resolve.Dataset`.

    Attributes:
        name: of the dataset.
        count: number of images, over all splits.
        are_photographs: whether most images have colors and are large.
        folder: where it is prepared.
        manifest: of that folder.
    """

    name: str
    count: int
    are_photographs: bool
    folder: Path
    manifest: Manifest

    @property
    def layout(self) -> ArrayLayout:
        """Shape of the images in the array."""
        return self.manifest.array_layout

    def tell_prepared(self) -> None:
        """Log that nothing is to be prepared, and what is odd about the labels."""
        log(f"{self.name} is prepared already in {self.folder}.")
        from trainer_classification.preparation.findings import log_findings

        log_findings(self.manifest)


@dataclass(frozen=True)
class _Entry:
    """What `Recalled.prepared` holds for a size."""

    folder: str
    fingerprint: str
    asked: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Recalled:
    """What is recalled of a dataset.

    Attributes:
        name: of the dataset.
        count: number of images, over all splits.
        are_photographs: whether most images have colors and are large.
        notes: what the user should know, a sentence each.
        default_size: side in px of the images that a network sees by default.
        prepared: side in px of the images that a network sees, as text -> name of
            the folder that is prepared for it, its fingerprint, and the options of
            the formats that were asked for there.
        parent: folder of the prepared datasets.
    """

    name: str
    count: int
    are_photographs: bool
    notes: list[str]
    default_size: int
    prepared: dict[str, dict[str, Any]]
    parent: Path

    def at_size(self, train_size: int = 0) -> RecalledDataset | None:
        """Return the dataset as it is prepared for a size; None if it is not any more.

        Args:
            train_size: side in px of the images that a network sees; 0: the default.
        """
        entry = self.prepared.get(str(train_size or self.default_size))
        if entry is None:
            return None
        folder = self.parent / entry["folder"]
        found = manifest.read_matching(folder, entry["fingerprint"])
        if found is None:
            return None
        return RecalledDataset(self.name, self.count, self.are_photographs, folder, found)


def recall(config: PrepareConfig) -> Recalled | None:
    """Return what is known of a dataset; None if it is not known, or has changed since.

    Args:
        config: what the user asked for.
    """
    state = read_state(config)
    if state is None:
        return None
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        path = note_path(config)
        head, _, names = path.read_bytes().partition(FILES_KEY)
        content = parse_json(head + b"}")
        files = read_names(names.removesuffix(b"}"))
        seen = hash_seen(_look_at_files(content.pop("root"), files))
        if [content.pop("state"), content.pop("seen")] == [state, seen]:
            known = Recalled(**content, parent=path.parent)
            check_kinds(known)
            for entry in known.prepared.values():
                check_kinds(_Entry(**entry))
            return known
    return None


def tell_if_prepared(config: PrepareConfig) -> bool:
    """Return whether there is nothing to prepare, and log that; False if it takes an inspection to tell.

    Args:
        config: what the user asked for.
    """
    if config.force or config.verify or config.clean or has_idle_beton_options(config):
        return False
    known = recall(config)
    found = known.at_size() if known is not None else None
    if known is None or found is None:
        return False

    asked = known.prepared[str(known.default_size)]["asked"].get(describe_request(config))
    formats = found.manifest.formats
    if asked is None or any(formats.get(name) != options for name, options in asked.items()):
        return False
    for note in known.notes:
        log(f"Note: {note}")
    found.tell_prepared()
    return True


def read_state(config: PrepareConfig) -> list[Any] | None:
    """Return what a change of a dataset's table changes, as JSON types; None if the dataset is not recalled.

    Args:
        config: what the user asked for.
    """
    folder = Path(config.dataset or "mnist")
    if not folder.is_dir() and "/" not in config.dataset:
        folder = Path(".data/datasets") / folder
    if in_cloud() or is_url(config.prepared) or not (folder / INFO).is_file():
        return None

    files = [folder / name for name in (INFO, *TABLES)]
    stats = [path.stat() if path.is_file() else None for path in files]
    return [
        [_VERSION, manifest.FORMAT_VERSION, os.path.realpath(folder)],
        *([stat.st_size, stat.st_mtime_ns] if stat else [] for stat in stats),
    ]


def note_path(config: PrepareConfig) -> Path:
    """Return the file that keeps what is known; its name has a hash of the dataset's place and options."""
    options = dataclasses.asdict(config)
    shaping = {name: value for name, value in options.items() if name not in _ACTION_OPTIONS}
    shaping["dataset"] = os.path.abspath(config.dataset)
    key = xxhash.xxh3_64_hexdigest(json.dumps(shaping).encode())

    return Path(config.prepared or ".data/prepared") / f".{key}.inspected.json"


def format_names(config: PrepareConfig) -> list[str]:
    """Return the names of the formats that the user asked for."""
    return [name for name in (config.formats or PrepareConfig.formats).split(",") if name]


def has_idle_beton_options(config: PrepareConfig) -> bool:
    """Return whether options of the beton were given for nothing."""
    options = (config.beton_mode, config.beton_side)
    defaults = (PrepareConfig.beton_mode, PrepareConfig.beton_side)
    return options != defaults and "beton" not in format_names(config)


def describe_request(config: PrepareConfig) -> str:
    """Return the formats and their options as the user asked for them."""
    return f"{config.formats} {config.beton_mode} {config.beton_side}"


def hash_seen(seen: bytes) -> str:
    """Return a hash of size and time of all files: int64, the two of each file in turn."""
    return xxhash.xxh3_128_hexdigest(seen)


def _look_at_files(root: str, files: Sequence[str]) -> bytes:
    """Return size of each file and when its content was changed last, in ns: int64; zeros where there is none.

    Paths are relative to the opened folder, which takes half the time of whole ones.
    """
    found = array("q")
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in files:
            try:
                status = os.stat(name, dir_fd=folder)
            except OSError:
                found.extend((0, 0))
                continue
            found.append(status.st_size)
            found.append(status.st_mtime_ns)
    finally:
        os.close(folder)
    return found.tobytes()
