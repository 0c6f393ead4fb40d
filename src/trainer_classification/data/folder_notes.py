"""Check what a scan of a folder found, and say what a user should know of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from trainer_classification.data.folder_levels import note_shared
from trainer_classification.data.folder_scan import ClassFolder, FolderScan, class_name_of
from trainer_classification.data.image_suffixes import CAMERA_SUFFIXES, PLUGINS, advise, suffix_of
from trainer_classification.data.labeled_files import PREDICT_INSTEAD, note_cleaned
from trainer_classification.data.split_names import SPLITS, find_split
from trainer_classification.names import list_names, printable

NO_DATASET = (
    "{folder} is no dataset: neither dataset_info.json nor folders of images as train/<class>/*.jpg "
    "or <class>/*.jpg."
)
_TABLES = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")


def check_found(
    scan: FolderScan, found: Sequence[ClassFolder], split_of: Mapping[str, str], refuse_nested: bool
) -> None:
    """Check that there is something to train on.

    Raises:
        ValueError: says what is there instead, and what to do.
    """
    root = printable(scan.root)
    with_images = [one for one in found if one.files]
    if not with_images:
        raise ValueError(NO_DATASET.format(folder=root) + _advise_layout(scan))
    if not any(one.split == "train" for one in with_images):
        raise ValueError(
            f"{root} has no images to train on, only {list_names(split_of)}: put them in train/<class>/, or without "
            "split folders in <class>/."
        )

    inner = next(iter(scan.nested), "")
    if not split_of and len(with_images) == 1 and find_split(os.path.basename(inner)):
        only = printable(with_images[0].path)
        raise ValueError(
            f"{root} holds only {only}, whose folders are splits: give --dataset {root}/{only}."
        )
    if inner and refuse_nested:
        raise ValueError(
            f"{sum(scan.nested.values())} images lie in folders within class folders, the first in "
            f"{root}/{printable(inner)}: move them up, or take the class folder's name for them with --nested take."
        )
    _check_readable(root, found)


def _check_readable(root: str, found: Sequence[ClassFolder]) -> None:
    """Check that no class vanishes because all its photos are of a kind that cannot be read here."""
    readable = {class_name_of(one) for one in found if one.files}
    for one in found:
        photos = {
            suffix: n
            for suffix, n in one.left_out.items()
            if suffix in PLUGINS or suffix in CAMERA_SUFFIXES
        }
        if photos and class_name_of(one) not in readable:
            raise ValueError(
                f"No image of {root}/{printable(one.path)} can be read here: it holds {_count_suffixes(photos)}. "
                f"To use them {' and '.join(map(advise, photos))}, or move the folder away."
            )


def _advise_layout(scan: FolderScan) -> str:
    """Return what to do with a folder that has no class folders."""
    tables = _list_tables(scan)
    images = sum(map(len, scan.loose.values()))
    parts = []
    if images:
        parts.append(
            f" It holds {images} images outside class folders: put each in a folder of its class's name. "
            f"{PREDICT_INSTEAD}"
        )
    if tables:
        parts.append(f" {_advise_table(scan, tables)}")
    if scan.left_out:
        parts.append(f" Files that are no images: {_count_suffixes(scan.left_out)}.")

    return "".join(parts)


def _list_tables(scan: FolderScan) -> list[str]:
    """Return the paths of tables in the folder, or without some there in the folders in it, train first."""
    tables = [name for name in sorted(os.listdir(scan.root)) if suffix_of(name) in _TABLES]
    if tables:
        return tables

    folders = [
        entry for entry in os.scandir(scan.root) if entry.is_dir() and os.access(entry, os.R_OK)
    ]
    inner = (f"{folder.name}/{name}" for folder in folders for name in os.listdir(folder))
    tables = [path for path in inner if suffix_of(path) in _TABLES]
    return sorted(tables, key=lambda path: (find_split(os.path.dirname(path)) != "train", path))


def _advise_table(scan: FolderScan, tables: Sequence[str]) -> str:
    """Return how to read the first of the tables."""
    return f"To read its table of paths and labels: --dataset {printable(scan.root)}/{printable(tables[0])}."


def note_splits(
    scan: FolderScan, found: Sequence[ClassFolder], split_of: dict[str, str]
) -> list[str]:
    """Note which folders are taken for which split, where that is not plain, and which are empty.

    Args:
        scan: that found the folders.
        found: the class folders.
        split_of: split folder -> split.
    """
    notes = []
    renamed = [
        f"{name} as {split}" for name, split in split_of.items() if name not in (*SPLITS, "val")
    ]
    if renamed:
        notes.append(f"Folders are taken as splits: {list_names(renamed)}.")

    empty = [name for name in split_of if not _has_images(found, name) and not scan.loose[name]]
    if empty:
        notes.append(f"Split folders without images are as if not there: {list_names(empty)}.")

    return notes


def _has_images(found: Sequence[ClassFolder], split_folder: str) -> bool:
    return any(one.files for one in found if one.path.startswith(f"{split_folder}/"))


def note_layout(
    scan: FolderScan, found: Sequence[ClassFolder], split_of: dict[str, str]
) -> list[str]:
    """Note what lies outside the plain <split>/<class>/x.jpg."""
    notes = note_cleaned({os.path.basename(one.path): class_name_of(one) for one in found}.items())
    empty = [
        one.path
        for one in found
        if not one.files and (not split_of or _has_images(found, one.path.split("/")[0]))
    ]
    if empty:
        notes.append(f"Folders without images count as no class there: {list_names(empty)}.")

    if len({class_name_of(one) for one in found if one.files}) == 1 and (
        tables := _list_tables(scan)
    ):
        notes.append(_advise_table(scan, tables))

    if scan.loose[""]:
        notes.append(
            f"{len(scan.loose['']):,} images outside class folders have no label and are left out, as "
            f"{printable(min(scan.loose['']))}."
        )

    if scan.nested:
        where = list_names(f"{count:,} in {path}" for path, count in scan.nested.items())
        notes.append(
            f"Images in folders within a class folder are of its class (else --nested refuse): {where}; "
            f"{note_shared(scan, found)}."
        )

    inner_splits = [
        path for path in scan.nested if find_split(os.path.basename(path)) and not split_of
    ]
    if inner_splits:
        notes.append(
            f"Splits are read as <split>/<class>, so {printable(inner_splits[0])} is no split."
        )

    return notes


def note_left_out(scan: FolderScan) -> list[str]:
    """Note how many links and files were left out and why."""
    notes = []
    if scan.loops:
        notes.append(
            f"Links that lead back to a folder they lie in are left out: {list_names(scan.loops)}."
        )

    if scan.hidden:
        listed = list_names(f"{count:,} {name}" for name, count in scan.hidden.most_common())
        notes.append(f"Hidden files and folders and those of tools are left out: {listed}.")

    if scan.apple_doubles:
        notes.append(
            f"{len(scan.apple_doubles):,} AppleDouble files, which macOS leaves beside others, are left out: "
            f"{list_names(sorted(scan.apple_doubles))}."
        )

    if scan.left_out:
        ways = dict.fromkeys(filter(None, map(advise, scan.left_out)))
        remedy = f" To use them: {'; '.join(ways)}." if ways else ""
        total = sum(scan.left_out.values())
        notes.append(
            f"{total:,} files that cannot be read as images are left out: {_count_suffixes(scan.left_out)}.{remedy}"
        )

    return notes


def _count_suffixes(counts: Mapping[str, int]) -> str:
    """Return "8 .txt, 4 without suffix"."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return list_names(f"{count:,} {suffix or 'without suffix'}" for suffix, count in ordered)
