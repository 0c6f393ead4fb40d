"""Prepare a Hafnia dataset: from its images to checked shards and a manifest."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer_classification.config import PrepareConfig
from trainer_classification.console import log
from trainer_classification.data import manifest
from trainer_classification.data.manifest import Manifest
from trainer_classification.data.mirror import is_mirror
from trainer_classification.options import flag
from trainer_classification.output_paths import check_output_folder
from trainer_classification.preparation import partial, remote_source, remote_target
from trainer_classification.preparation.build import Build, build_dataset
from trainer_classification.preparation.changes import has_changed
from trainer_classification.preparation.findings import log_findings
from trainer_classification.preparation.format import PrepareSpec
from trainer_classification.preparation.formats import FORMATS
from trainer_classification.preparation.inspect import DatasetInfo, inspect
from trainer_classification.preparation.recall import format_names, has_idle_beton_options
from trainer_classification.preparation.remember import remember
from trainer_classification.preparation.summary import print_summary
from trainer_classification.preparation.workers import Workers
from trainer_classification.storage import ObjectStore, is_url


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset: its folder and manifest."""

    folder: Path
    manifest: Manifest


def prepare(config: PrepareConfig) -> Prepared:
    """Prepare a dataset, or find it prepared already.

    Formats that were prepared before are kept.

    Args:
        config: what the user asked for.

    Raises:
        ValueError: the dataset is not found or wrong, too many images are bad,
            there is no room, shards are damaged.
        OSError: the disk is full, or what was written is not what is read back.
    """
    info = inspect(config)
    if config.verify:
        return verify(info, remote_source.find_store(config.prepared, info.folder))

    names = format_names(config)
    if has_idle_beton_options(config):
        _note_idle_beton_options(config)
    return write(info, names, config)


def _note_idle_beton_options(config: PrepareConfig) -> None:
    """Say which options of the beton were given for nothing."""
    for name in ("beton_mode", "beton_side"):
        value = getattr(config, name)
        if value != getattr(PrepareConfig, name):
            log(
                f"Note: {flag(name)} {value} has no effect: --formats {config.formats} writes no beton."
            )


def verify(info: DatasetInfo, store: ObjectStore | None = None) -> Prepared:
    """Compare the files of a prepared dataset with their checksums.

    Args:
        info: of `inspect`.
        store: where the dataset is in object storage; None: it is a local folder.

    Raises:
        ValueError: nothing is prepared, or a file is damaged.
    """
    manifest.read(info.folder)  # raises before the lock makes a folder
    with partial.lock(info.folder):
        found = manifest.read(info.folder)
        if store is not None:
            remote_target.verify(found, store)
            return Prepared(info.folder, found)
        manifest.verify(info.folder, found)
    log(f"{info.folder} is complete: {len(found.files)} files agree with their checksums.")
    return Prepared(info.folder, found)


def write(
    info: DatasetInfo,
    formats: Collection[str],
    config: PrepareConfig,
    *,
    accept_existing: bool = False,
) -> Prepared:
    """Write a dataset in some formats, where that is not done yet.

    Args:
        info: of `inspect`.
        formats: names in `formats.FORMATS`.
        config: the options of the formats, of the validation split, of bad images
            and of the processes.
        accept_existing: a format that is there is not made again if the options
            ask for another kind of it.

    Raises:
        ValueError: a format is unknown, too many images are bad, or there is no
            room.
        OSError: the disk is full, or what was written is not what is read back.
    """
    started = time.perf_counter()
    wanted = _options_of(info, formats, config)
    store = remote_source.find_store(config.prepared, info.folder)
    if store is None and not info.folder.exists():
        check_output_folder("--prepared", info.folder.parent)
    with partial.lock(info.folder):
        # Another process may have prepared it since `inspect`.
        before = None if config.force else _read_unchanged(info, config)
        spec = PrepareSpec(info.layout, _missing(wanted, before, accept_existing))
        if before is not None and not spec.formats:
            if store is not None:
                remote_target.upload(info.folder, before, store)
            where = info.folder if store is None else store.url
            log(f"{info.name} is prepared already in {where}.")
            log_findings(before)
            remember(info, config, wanted)
            return Prepared(info.folder, before)

        if before is not None:
            remote_target.complete(info.folder, before)
        listed = ", ".join(spec.formats) or "its table"
        log(f"Preparing {info.name} for {info.train_size} px ({info.train_size_reason}): {listed}.")
        with _open_workers(info, config) as workers:
            made, elsewhere = build_dataset(Build(info, config, spec, before, workers, store))
        remember(info, config, wanted)
        print_summary(info.folder, made, info.source, time.perf_counter() - started)
        if store is not None:
            remote_target.upload(info.folder, made, store, config.force, elsewhere)

    return Prepared(info.folder, made)


def _read_unchanged(info: DatasetInfo, config: PrepareConfig) -> Manifest | None:
    """Return the manifest of what is prepared, if it is of the images as they are now; else None."""
    found = manifest.read_matching(info.folder, info.fingerprint)
    if found is None or _lacks_shards(info.folder, config):
        return None
    if has_changed(info.folder, info.source, lambda: _open_workers(info, config)):
        return None
    return found


def _lacks_shards(folder: Path, config: PrepareConfig) -> bool:
    """Return whether shards that workers have assembled were not published: the run was killed before that."""
    return is_url(config.prepared) and not is_mirror(folder) and not manifest.is_whole(folder)


def _open_workers(info: DatasetInfo, config: PrepareConfig) -> Workers:
    return Workers(
        config.workers,
        info.resized,
        config.executor,
        config.executor_address,
        int(config.memory * 1e9),
    )


def _options_of(
    info: DatasetInfo, formats: Collection[str], config: PrepareConfig
) -> dict[str, dict[str, Any]]:
    """Return the wanted formats in the order of the registry, each with its options."""
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise ValueError(
            f"There is no format {', '.join(map(repr, unknown))}, only {', '.join(FORMATS)}."
        )
    return {
        name: FORMATS[name].options(config, info.layout, info.train_size)
        for name in FORMATS
        if name in formats
    }


def _missing(
    wanted: dict[str, dict[str, Any]], before: Manifest | None, accept_existing: bool
) -> dict[str, dict[str, Any]]:
    """Return the formats that are not there, or are there with other options."""
    existing = before.formats if before is not None else {}
    return {
        name: options
        for name, options in wanted.items()
        if name not in existing or (existing[name] != options and not accept_existing)
    }
