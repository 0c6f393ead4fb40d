"""Inspect a dataset before anything is decoded: names, sizes, channels, and where it will be prepared."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from trainer_classification import recipes
from trainer_classification.arrays import Int32
from trainer_classification.config import PrepareConfig
from trainer_classification.console import log
from trainer_classification.data import manifest
from trainer_classification.data.decode import is_gray, read_size
from trainer_classification.data.formats import SIDE_PER_TRAIN_SIZE, ArrayLayout
from trainer_classification.data.manifest import Manifest
from trainer_classification.data.source import Source, find_dataset, read_options
from trainer_classification.data.split_names import ALL_SPLITS
from trainer_classification.environment import in_cloud
from trainer_classification.names import safe_component
from trainer_classification.preparation import disk, remote_source
from trainer_classification.preparation.recall import read_state
from trainer_classification.preparation.reuse import recall_sizes
from trainer_classification.storage import is_url

_KEEP_SIZE = 64  # px: images up to here are stored as they are
_SMALL = 96  # px: networks that were trained on photographs make little of smaller images
_LARGEST_SIDE = np.iinfo(np.int32).max  # px, that can be noted; no such image is decoded
_ROWS_AT_ONCE = 1 << 13  # that are text at the same time
_CHECKED_FOR_COLOR = 64  # images that say whether the dataset is gray, until all are decoded


@dataclass(frozen=True, eq=False)
class DatasetInfo:
    """What is known about a dataset before it is prepared.

    Attributes:
        name: of the dataset.
        class_names: index = label.
        count: number of images, over all splits.
        sizes: int32 [count, 2], width and height of the originals in px.
        channels: 1 if some images from all over the dataset are gray, else 3.
        image_size: side in px of the images in the array.
        train_size: side in px of the images that the network is meant to see.
        train_size_reason: why this one.
        resized: whether images are resized to `image_size`, or keep their size.
        fingerprint: hash of everything that shapes the bytes.
        folder: where it is or will be prepared.
        manifest: of `folder`, if it was prepared with the same fingerprint; else
            None.
        source: the dataset's table.
        state: of the table's files before they were read, as `recall` compares it.
    """

    name: str
    class_names: list[str]
    count: int
    sizes: Int32
    channels: int
    image_size: int
    train_size: int
    train_size_reason: str
    resized: bool
    fingerprint: str
    folder: Path
    manifest: Manifest | None
    source: Source
    state: list[Any] | None = None

    @property
    def are_photographs(self) -> bool:
        """Whether the images have colors, and most have more than 96 px."""
        return self.channels == 3 and float(np.median(self.sizes.max(1))) > _SMALL

    @property
    def layout(self) -> ArrayLayout:
        """Shape of the images in the array."""
        return ArrayLayout(self.image_size, self.resized, self.channels)


def inspect(config: PrepareConfig) -> DatasetInfo:
    """Find a dataset and its sizes, channels and target folder, without writing anything.

    Args:
        config: what the user asked for.

    Raises:
        ValueError: the dataset is not found or its table is wrong, or no disk has
            room for it.
    """
    state = read_state(config)
    source = find_dataset(config.dataset, config.task, read_options(config))
    for note in source.notes:
        log(f"Note: {note}")
    source = dataclasses.replace(source, sizes=_complete_sizes(config, source))

    longest = int(source.sizes.max())
    train_size, reason = recipes.train_size(source.name, longest)
    if config.image_size:
        train_size = config.image_size
        reason = "--image-size"

    info = _describe(config, source, train_size, reason)
    return dataclasses.replace(info, state=state)


def at_train_size(
    info: DatasetInfo, config: PrepareConfig, train_size: int, reason: str
) -> DatasetInfo:
    """Return what is known of a dataset if the network sees images of another size.

    Args:
        info: of `inspect`.
        config: that it was inspected with.
        train_size: side in px.
        reason: why this one.
    """
    if train_size == info.train_size:
        return info
    resized = _describe(config, info.source, train_size, reason)
    return dataclasses.replace(resized, state=info.state)


def _describe(config: PrepareConfig, source: Source, train_size: int, reason: str) -> DatasetInfo:
    """Work out what follows from the size of the images that the network sees."""
    longest = int(source.sizes.max())
    resized = longest > _KEEP_SIZE or train_size != longest
    side = round(SIDE_PER_TRAIN_SIZE * train_size) if resized else longest

    fingerprint = _fingerprint(config, source, side, resized, train_size)
    images = len(source.files) * side**2 * 3 * (1 if resized else 2)  # `needed_bytes` of the array
    folder = _target_folder(config, source, fingerprint, f"{train_size}px", images)

    return DatasetInfo(
        name=source.name,
        class_names=source.class_names,
        count=len(source.files),
        sizes=source.sizes,
        channels=_guess_channels(source),
        image_size=side,
        train_size=train_size,
        train_size_reason=reason,
        resized=resized,
        fingerprint=fingerprint,
        folder=folder,
        manifest=manifest.read_matching(folder, fingerprint),
        source=source,
    )


def _complete_sizes(config: PrepareConfig, source: Source) -> Int32:
    """Return widths and heights by the table, or by the files' headers where it has none: int32 [n, 2].

    What an earlier run has found in a header is not read again if the file is as it
    was.
    """
    sizes = source.sizes.copy()
    if (sizes <= 0).any() and not config.force and not is_url(config.prepared):
        sizes = np.where(sizes > 0, sizes, recall_sizes(_parent_folder(config), source))
    for row in np.flatnonzero((sizes <= 0).any(1)):
        # A file that cannot be read gets some size here; its job will name it.
        sizes[row] = np.minimum(read_size(source.paths[row]) or (1, 1), _LARGEST_SIDE)
    return sizes


def _guess_channels(source: Source) -> int:
    """Return 1 if some images from all over the dataset are gray, else 3."""
    rows = np.linspace(0, len(source.files) - 1, _CHECKED_FOR_COLOR, dtype=np.int64).tolist()
    return 1 if all(is_gray(source.paths[row]) for row in rows) else 3


def _fingerprint(
    config: PrepareConfig, source: Source, side: int, resized: bool, train_size: int
) -> str:
    """Hash everything that shapes the bytes: the table, the files' sizes, the options, the format version.

    The content of the files is left out: reading it would cost as much as
    preparing.
    """
    head = (manifest.FORMAT_VERSION, source.name, source.version, source.task, source.class_names)
    options: tuple[object, ...] = (side, resized, train_size, config.validation_fraction)
    if (
        config.test_fraction != PrepareConfig.test_fraction
    ):  # what was prepared before this option existed stays valid
        options = (*options, config.test_fraction)

    state = xxhash.xxh3_128(json.dumps([head, options]).encode())
    for start in range(0, len(source.files), _ROWS_AT_ONCE):
        some = slice(start, start + _ROWS_AT_ONCE)
        rows = zip(
            source.files[some],
            [ALL_SPLITS[number] for number in source.split_numbers[some].tolist()],
            source.labels[some].tolist(),
            source.bytes[some].tolist(),
            strict=True,
        )
        if start:
            state.update(b"\n")
        state.update("\n".join(map(str, rows)).encode())

    return state.hexdigest()


def _target_folder(
    config: PrepareConfig, source: Source, fingerprint: str, size: str, needed: int
) -> Path:
    """Return the folder of the prepared dataset: below --prepared, else .data, or in the cloud the best disk.

    Its name has a hash of the fingerprint and of the dataset's place, so that two
    datasets of one name are kept apart, even if their files have the same names
    and sizes.
    """
    stem = f"{safe_component(source.name)}-{size}"
    place = f"{fingerprint} {os.path.realpath(source.root)}"
    name = f"{stem}-{xxhash.xxh3_64_hexdigest(place.encode(errors='surrogateescape'))[:8]}"
    if is_url(config.prepared):
        folder = remote_source.cache_folder(config.prepared, needed) / name
        store = remote_source.find_store(config.prepared, folder)
        assert store is not None
        remote_source.refresh(folder, store)
        return folder
    if config.prepared or not in_cloud():
        parent = _parent_folder(config)
        return _find_same(parent, stem, source, fingerprint) or parent / name

    folder, reason = disk.choose_disk(disk.candidates(), name, needed)
    log(f"Prepared datasets go to {folder}: {reason}.")

    return folder / name


def _parent_folder(config: PrepareConfig) -> Path:
    """Return the folder of the prepared datasets, where it is not chosen by the room on the disks."""
    return Path(config.prepared or ".data/prepared")


def _find_same(parent: Path, stem: str, source: Source, fingerprint: str) -> Path | None:
    """Return the folder of a dataset that was prepared under an older name, or before it was moved; None if none is."""
    for folder in sorted(parent.iterdir()) if parent.is_dir() else []:
        is_candidate = folder.name.startswith(stem) and not folder.name.endswith(
            (".partial", ".old")
        )
        found = manifest.read_matching(folder, fingerprint) if is_candidate else None
        if found is not None and _is_same_place(found.root, source.root):
            return folder
    return None


def _is_same_place(before: str, now: Path) -> bool:
    """Return whether two roots are one folder, or the former is gone and so may be the latter, moved."""
    return os.path.realpath(before) == os.path.realpath(now) or not os.path.exists(before)
