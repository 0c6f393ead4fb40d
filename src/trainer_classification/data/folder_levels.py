"""Find out that the folders taken for classes lie a level above them: splits, years or batches of one dataset."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from trainer_classification.data.folder_scan import ClassFolder, FolderScan, class_name_of
from trainer_classification.data.split_names import find_split
from trainer_classification.names import list_names, printable

# Words of a name, those of TrainImages too.
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
_BATCH = re.compile(
    r"(19|20)\d\d([-_.]?\d\d){0,2}|(year|batch|part|fold|round|chunk|shard)[-_. ]?\d+",
    re.IGNORECASE,
)
_SHOWN = 4  # names in a sentence


def check_level(
    scan: FolderScan, found: Sequence[ClassFolder], split_of: Mapping[str, str]
) -> None:
    """Check that the class folders are classes, as far as names can tell.

    Folders within class folders are ordinary, also those that several classes
    have, such as one for each camera. Refused is only what holds nothing but
    folders, and is alone, or named as splits, years or batches are.

    Args:
        scan: that found the folders.
        found: the class folders.
        split_of: split folder -> split.

    Raises:
        ValueError: they are not; says what they are, and what to do.
    """
    if not scan.nested:
        return
    inner = _list_inner(scan, found)
    class_names = sorted({class_name_of(one) for one in found if one.files})
    if not inner:
        return

    parents = {
        outer: os.path.commonpath([os.path.dirname(path) for path in paths])
        for outer, paths in inner.items()
    }
    first = next(iter(inner.values()))
    give = f"give --dataset {printable(scan.root)}/{printable(next(iter(parents.values())))}"
    up = "move the folders in them up" if split_of else ""
    if len(class_names) == 1 and len(first) > 1:
        kind, way = "is the only class folder and", up or give
    elif _are_splits(class_names, inner):
        moves = [
            f"{path} to {_find_split_word(os.path.basename(outer))}/"
            for outer, path in parents.items()
        ]
        kind, way = (
            "seem to be splits, not classes: each",
            up or f"move {list_names(moves, _SHOWN)}",
        )
    elif (
        len(inner) > 1 and len(_find_shared(inner)) > 1 and all(map(_BATCH.fullmatch, class_names))
    ):
        kind = "seem to be years or batches, not classes: each"
        way = up or f"merge those of one name, or {give}"
    else:
        return

    held = list_names(dict.fromkeys(map(os.path.basename, first)), _SHOWN)
    outer_names = list_names(class_names, _SHOWN)
    raise ValueError(
        f"In {printable(scan.root)} {outer_names} {kind} holds no images but folders of them ({held}). If these are "
        f"the classes, {way}; else take {outer_names} as classes with --nested take."
    )


def _list_inner(scan: FolderScan, found: Sequence[ClassFolder]) -> dict[str, list[str]]:
    """Return class folder -> folders below it that hold images, of those that hold none themselves."""
    holders: dict[str, list[str]] = {one.path: [] for one in found if one.files}
    depth = {path.count("/") + 1 for path in holders}.pop()
    for path in scan.holders:
        outer = "/".join(path.split("/")[:depth])
        if outer in holders:
            holders[outer].append(path)
    return {outer: paths for outer, paths in holders.items() if paths and outer not in paths}


def _find_shared(inner: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the names of folders that several class folders have."""
    names = Counter(
        name for paths in inner.values() for name in {os.path.basename(path) for path in paths}
    )
    return sorted(name for name, count in names.items() if count > 1)


def _are_splits(class_names: Sequence[str], inner: Mapping[str, Sequence[str]]) -> bool:
    """Return True where names have the words of train and another split, all but one, and train has class folders."""
    splits = {name: _find_split_word(name) for name in class_names}
    known = set(splits.values()) - {""}
    train = [
        paths for path, paths in inner.items() if splits.get(os.path.basename(path)) == "train"
    ]
    has_classes = any(len(paths) > 1 for paths in train)
    return has_classes and len(known) > 1 and list(splits.values()).count("") <= 1


def _find_split_word(name: str) -> str:
    """Return the split that a word of a name stands for, else an empty string."""
    return next(filter(None, map(find_split, _WORD.findall(name))), "")


def note_shared(scan: FolderScan, found: Sequence[ClassFolder]) -> str:
    """Return "the classes are a, b", and which folders within class folders several of these have."""
    class_names = sorted({class_name_of(one) for one in found if one.files})
    shared = _find_shared(_list_inner(scan, found))
    several = f"; several of them have folders {list_names(shared, _SHOWN)}" if shared else ""
    return f"the classes are {list_names(class_names, _SHOWN)}{several}"
