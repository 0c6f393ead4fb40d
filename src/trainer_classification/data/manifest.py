"""`manifest.json`: what a prepared dataset holds, how it was made, and the checksums to trust it by."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

if TYPE_CHECKING:
    import xxhash

FORMAT_VERSION = 3
FILE_NAME = "manifest.json"


@dataclass(frozen=True)
class SplitInfo:
    """One split of the prepared dataset.

    Attributes:
        count: images in the shards.
        origin: "dataset" (came with it), or how it was cut, for the table: "cut from train".
        per_class: images of each class, in the order of `Manifest.class_names`.
    """

    count: int
    origin: str
    per_class: list[int]


@dataclass(frozen=True)
class FileInfo:
    """A shard file: bytes and xxh3-128 of its content as 32 hex digits."""

    bytes: int
    xxh3: str


@dataclass(frozen=True)
class Manifest:
    """Everything a loader needs to know of a prepared dataset.

    Attributes:
        dataset, version, task: as the source names them.
        root: folder of the original files when they were prepared.
        formats: "array", "beton", "tar": those that are here, each with all splits, and the options of each.
        class_names: index = label.
        splits: "train", "validation", "test" -> SplitInfo; only those that have images.
        channels: 1 (the whole dataset is grey) or 3.
        image_size: side in px of the images in the array.
        train_size: side in px of the images the network is meant to see.
        resized: False: images kept at their size (train_size == image_size, padded if sizes differ);
            True: each resized whole to image_size x image_size, antialiased.
        layout: order of an image's bytes in the array: "HWC", or "WHC" (x before y), which resized ones use.
        mean, std: of the train images as the array has them, or of some if they are resized; per channel, of 0..1.
        files: path relative to the manifest's folder -> FileInfo.
        skipped: {"file", "split", "reason"} of each image left out.
        unlabelled: rows without a label of this task, left out.
        duplicates: groups of equal images over more than one split: {"splits", "files"}.
        options: the options that shaped the bytes.
        fingerprint: hash of source and options; equal fingerprints mean equal bytes.
    """

    dataset: str
    version: str
    task: str
    root: str
    formats: dict[str, dict[str, Any]]
    class_names: list[str]
    splits: dict[str, SplitInfo]
    channels: int
    image_size: int
    train_size: int
    resized: bool
    layout: Literal["HWC", "WHC"]
    mean: list[float]
    std: list[float]
    files: dict[str, FileInfo]
    skipped: list[dict[str, str]]
    unlabelled: int
    duplicates: list[dict[str, list[str]]]
    options: dict[str, Any]
    fingerprint: str
    format_version: int = field(default=FORMAT_VERSION)

    def write(self, folder: Path) -> None:
        """Write `folder/manifest.json` atomically."""
        temporary = folder / (FILE_NAME + ".tmp")
        with temporary.open("w") as file:
            json.dump(dataclasses.asdict(self), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / FILE_NAME)


def read(folder: Path) -> Manifest:
    """Read `folder/manifest.json`.

    Raises:
        ValueError: there is none, or it is of another format version; says how to make it anew.
    """
    path = folder / FILE_NAME
    again = "prepare the dataset again: python scripts/prepare.py --dataset NAME --force"
    if not path.is_file():
        raise ValueError(f"{folder} holds no prepared dataset (no {FILE_NAME}): {again}")
    content = json.loads(path.read_text())
    if content.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {content.get('format_version')}, this program reads {FORMAT_VERSION}: {again}"
        )
    content["splits"] = {name: SplitInfo(**info) for name, info in content["splits"].items()}
    content["files"] = {name: FileInfo(**info) for name, info in content["files"].items()}
    return Manifest(**content)


def check_files(folder: Path, manifest: Manifest, split: str, names: Iterable[str]) -> None:
    """Check that a split is there and its files have the sizes that the manifest says.

    Raises:
        ValueError: says what is wrong, and the command that makes it anew.
    """
    if split not in manifest.splits:
        raise ValueError(f"{folder} has no split {split!r}; it has: {', '.join(manifest.splits)}.")
    for name in names:
        size = (folder / name).stat().st_size if (folder / name).is_file() else None
        if size != manifest.files[name].bytes:
            raise ValueError(
                f"{folder / name} is damaged ({size} bytes instead of {manifest.files[name].bytes}): prepare the "
                f"dataset again: python scripts/prepare.py --dataset {manifest.dataset} --force"
            )


def check_format(folder: Path, manifest: Manifest, name: str) -> None:
    """Check that a format is there.

    Raises:
        ValueError: it is not; says the command that adds it.
    """
    if name not in manifest.formats:
        raise ValueError(
            f"{folder} holds {', '.join(manifest.formats) or 'no format'}, not {name}: "
            f"python scripts/prepare.py --dataset {manifest.dataset} --formats {name} adds it."
        )


def file_info(path: Path) -> FileInfo:
    """Size and checksum of a file."""
    import xxhash  # not needed to read a prepared dataset

    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        size = hash_rest(file, state)
    return FileInfo(size, state.hexdigest())


def hash_rest(file: BinaryIO, state: xxhash.xxh3_128) -> int:
    """Add what is left of a file to its hash; returns how many bytes that were."""
    size = 0
    while block := file.read(1 << 20):
        state.update(block)
        size += len(block)
    return size


def verify(folder: Path, manifest: Manifest) -> None:
    """Check every file of the manifest against its checksum.

    Raises:
        ValueError: one is missing or differs; names it and the command that makes it anew.
    """
    for name, expected in manifest.files.items():
        found = file_info(folder / name) if (folder / name).is_file() else None
        if found != expected:
            raise ValueError(
                f"{folder / name} is {'damaged' if found else 'missing'}: prepare the dataset again: "
                f"python scripts/prepare.py --dataset {manifest.dataset} --force"
            )
