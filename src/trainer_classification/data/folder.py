"""List a folder of images, <split>/<class>/** or <class>/**, by names only: no image is opened."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from trainer_classification.data.file_names import FileNames
from trainer_classification.data.folder_levels import check_level
from trainer_classification.data.folder_notes import (
    check_found,
    note_layout,
    note_left_out,
    note_splits,
)
from trainer_classification.data.folder_scan import (
    ClassFolder,
    FolderScan,
    class_name_of,
    image_suffix,
    is_folder,
    is_hidden,
    list_entries,
    scan_class,
)
from trainer_classification.data.image_suffixes import image_suffixes, suffix_of
from trainer_classification.data.labeled_files import (
    LabeledFiles,
    check_repeated,
    note_labels,
    note_unlabeled,
)
from trainer_classification.data.split_names import EVALUATION, NUMBER_OF, SPLITS, find_split
from trainer_classification.names import list_names, printable


@dataclass(frozen=True)
class FolderOptions:
    """How to read what is not plain in a folder.

    Attributes:
        nested: folders within a class folder: "take" their images for the class,
            or "refuse" them; "auto": take them, unless the class folders are no
            classes but splits, years or batches.
        unknown_folders: folders beside split folders: "fail", "skip" them, or
            take them as "train".
    """

    nested: Literal["auto", "take", "refuse"] = "auto"
    unknown_folders: Literal["fail", "skip", "train"] = "fail"


def scan_folder(folder: Path, options: FolderOptions | None = None) -> LabeledFiles:
    """List the images of a folder with their labels.

    Split folders are known by their usual names in any case; without any, each
    folder is a class of train. The class is the first folder below the split;
    images beside class folders have none, and are a split of their own.
    Hidden and tool files are left out. A file counts as an image by its suffix,
    one without a suffix by its first bytes; whether it can be decoded is found
    later.

    Args:
        folder: with <split>/<class>/** or <class>/**.
        options: for what is not plain.

    Raises:
        ValueError: no images in class folders, none to train on, an unknown
            folder beside splits, a nested one under "refuse", class folders that are
            surely a level above the classes under "auto", or a folder that
            cannot be read.
    """
    options = options or FolderOptions()
    scan = FolderScan(os.path.abspath(folder), image_suffixes())
    names = _list_folders(scan, "")
    split_of = _find_splits(scan, names)
    notes: list[str] = []

    if split_of:
        unknown = [name for name in names if name not in split_of]
        split_of, notes = _place_unknown(scan, unknown, split_of, options)
        found = [one for name, split in split_of.items() for one in _scan_split(scan, name, split)]
        notes += note_splits(scan, found, split_of)
    else:
        found = [scan_class(scan, "train", name, [""]) for name in names]
        notes.append(
            "There are no split folders: test and validation are cut from the images, by their content."
        )

    check_found(scan, found, split_of, options.nested == "refuse")
    if options.nested == "auto":
        check_level(scan, found, split_of)

    notes += [*note_layout(scan, found, split_of), *note_left_out(scan)]

    return _label(scan, found, split_of, notes)


def _list_folders(scan: FolderScan, path: str) -> list[str]:
    """Return the names of the folders in a folder that is no class; images beside them have no label."""
    names = []
    for entry in list_entries(scan, path):
        if is_folder(entry):
            names.append(entry.name)
            continue

        is_image, suffix = image_suffix(scan, entry)
        if is_image:
            scan.loose[path].append(f"{path}/{entry.name}".lstrip("/"))
        else:
            scan.left_out[suffix] += 1

    return sorted(names)


def _find_splits(scan: FolderScan, names: Sequence[str]) -> dict[str, str]:
    """Return the split of each split folder, those of train first; empty where the folders are classes.

    A folder that bears a split's name but holds images and no folders is a class
    (a train, say) if all of them do and there are others beside them.
    """
    split_of = {name: find_split(name) for name in names if find_split(name)}
    if len(split_of) < len(names) and all(_is_flat(scan, name) for name in split_of):
        return {}

    evaluation = [name for name in split_of if name.strip().lower() in EVALUATION]
    has_test = sum(split == "test" for split in split_of.values()) > len(evaluation)
    if has_test and "validation" not in split_of.values():
        split_of |= dict.fromkeys(evaluation, "validation")

    return dict(sorted(split_of.items(), key=lambda item: (SPLITS.index(item[1]), item[0])))


def _is_flat(scan: FolderScan, name: str) -> bool:
    """Return True for a folder that holds files and no folders."""
    entries = list_entries(
        FolderScan(scan.root, scan.suffixes), name
    )  # what is hidden is counted later
    return bool(entries) and not any(map(is_folder, entries))


def _place_unknown(
    scan: FolderScan, unknown: Sequence[str], split_of: dict[str, str], options: FolderOptions
) -> tuple[dict[str, str], list[str]]:
    """Return the split folders with unknown ones as `options` say, and notes.

    Raises:
        ValueError: there are some with images, and the options do not say what
            they are.
    """
    with_images = [name for name in unknown if _holds_images(scan, name)]
    without = [name for name in unknown if name not in with_images]
    notes = (
        [f"Folders without images beside the split folders are left out: {list_names(without)}."]
        if without
        else []
    )
    if not with_images:
        return split_of, notes

    listed = list_names(with_images)
    if options.unknown_folders == "fail":
        raise ValueError(
            f"{printable(scan.root)} has split folders ({list_names(split_of)}) and beside them {listed}, which is no "
            "split (train, validation, test). --unknown-folders skip leaves it out, --unknown-folders train takes the "
            "class folders in it for training."
        )
    if options.unknown_folders == "skip":
        return split_of, [
            *notes,
            f"Folders beside the split folders are left out (--unknown-folders skip): {listed}.",
        ]

    taken = dict.fromkeys(with_images, "train") | split_of

    return taken, [*notes, f"Folders beside the split folders are taken for training: {listed}."]


def _holds_images(scan: FolderScan, name: str) -> bool:
    """Return True if there is an image by its suffix anywhere below."""
    walk = os.walk(os.path.join(scan.root, name))
    return any(
        suffix_of(file) in scan.suffixes and not is_hidden(file)
        for _, _, files in walk
        for file in files
    )


def _scan_split(scan: FolderScan, name: str, split: str) -> list[ClassFolder]:
    """Scan the class folders of a split folder."""
    names = _list_folders(scan, name)
    return [scan_class(scan, split, f"{name}/{inner}", ["", name]) for inner in names]


def _label(
    scan: FolderScan, found: Iterable[ClassFolder], split_of: dict[str, str], notes: list[str]
) -> LabeledFiles:
    """Return the files of all class folders with splits and labels, and those beside them in split folders.

    A class is known by its cleaned name.
    """
    with_images = [one for one in found if one.files]
    # The order of the SDK and of torchvision.
    class_names = sorted({class_name_of(one) for one in with_images})
    index = {name: label for label, name in enumerate(class_names)}
    counts = [len(one.files) for one in with_images]
    numbers = np.array([NUMBER_OF[one.split] for one in with_images], np.int8)
    labeled_splits = np.repeat(numbers, counts)
    labels = np.repeat([index[class_name_of(one)] for one in with_images], counts)
    check_repeated(scan.root, class_names, labels)

    beside = [
        (split, file) for name, split in split_of.items() for file in sorted(scan.loose[name])
    ]
    beside_splits = np.array([NUMBER_OF[f"{split}_unlabeled"] for split, _ in beside], np.int8)
    splits = np.concatenate([labeled_splits, beside_splits])
    beside_files = FileNames.of(file for _, file in beside)

    return LabeledFiles(
        name=printable(os.path.basename(scan.root)) or "photos",
        root=Path(scan.root),
        class_names=class_names,
        files=FileNames.join([*(one.files for one in with_images), beside_files]),
        split_numbers=splits,
        labels=np.append(labels, np.full(len(beside), -1)),
        unlabeled=sum(map(len, scan.loose.values())),
        left_out=dict(scan.left_out),
        notes=[
            *notes,
            *note_labels(class_names, labels, labeled_splits),
            *note_unlabeled(splits),
        ],
    )
