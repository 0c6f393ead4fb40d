"""Walk a folder of images, or its class folders."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from trainer_classification.data.file_names import FileNames
from trainer_classification.data.image_suffixes import SNIFFED_BYTES, sniff, suffix_of
from trainer_classification.data.labeled_files import clean_label
from trainer_classification.names import printable

_TOOL_NAMES = frozenset(
    (
        "__macosx",
        "__pycache__",
        "@eadir",
        "@recently-snapshot",
        "@recycle",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "lost+found",
        "thumbs.db",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "picasa.ini",
        "icon\r",
    )
)
_DEEPEST = 200  # folders within each other


@dataclass
class FolderScan:
    """What a scan found.

    Attributes:
        root: the folder, with no separator at its end.
        suffixes: of image files, in lower case.
        hidden: name -> hidden files and folders, and those of tools.
        apple_doubles: paths of the files (._x.jpg) that macOS leaves beside
            others.
        left_out: suffix -> files that are no images.
        loops: links to a folder that they lie in, as paths.
        loose: folder -> paths of the images in it that lie in no class folder.
        nested: folders within class folders -> images below them.
        holders: class folders and folders in them that hold images themselves.
    """

    root: str
    suffixes: frozenset[str]
    hidden: Counter[str] = field(default_factory=Counter)
    apple_doubles: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    loops: list[str] = field(default_factory=list)
    loose: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    nested: Counter[str] = field(default_factory=Counter)
    holders: list[str] = field(default_factory=list)


@dataclass
class ClassFolder:
    """The images below one class folder.

    Attributes:
        split: of SPLITS.
        path: of the folder, relative to the root.
        files: paths relative to the root, in order.
        left_out: suffix -> files below it that are no images.
    """

    split: str
    path: str
    files: FileNames
    left_out: Counter[str]


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return True for a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Return True for a pipe, socket or device; a link that leads nowhere is a bad image instead."""
    try:
        return not entry.is_file() and os.path.exists(entry.path)
    except OSError:
        return False


def list_entries(scan: FolderScan, path: str) -> list[os.DirEntry[str]]:
    """Return the entries of a folder, given relative to the root, but for hidden and tool ones, which are counted."""
    kept = []
    try:
        with os.scandir(os.path.join(scan.root, path)) as entries:
            for entry in entries:
                if entry.name.startswith("._"):
                    scan.apple_doubles.append(f"{path}/{entry.name}".lstrip("/"))
                elif is_hidden(entry.name):
                    scan.hidden[entry.name] += 1
                else:
                    kept.append(entry)
    except OSError as error:
        where = printable(os.path.join(scan.root, path))
        raise ValueError(
            f"The folder {where} cannot be read ({error.strerror}): mend it or move it away."
        ) from error

    return kept


def is_hidden(name: str) -> bool:
    """Return True for what systems and tools leave behind: hidden names, AppleDouble (._x.jpg), Thumbs.db, @eaDir."""
    return name[0] == "." or name.lower() in _TOOL_NAMES


def image_suffix(scan: FolderScan, entry: os.DirEntry[str]) -> tuple[bool, str]:
    """Return whether a file counts as an image, and its suffix, for one without a suffix by its first bytes."""
    suffix = suffix_of(entry.name)
    if _is_special(entry):
        return False, "pipe or device"
    if not suffix:
        suffix = _sniff_file(entry.path)

    return suffix in scan.suffixes, suffix


def _sniff_file(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return sniff(file.read(SNIFFED_BYTES))
    except OSError:
        return ""


def scan_class(scan: FolderScan, split: str, path: str, above: list[str]) -> ClassFolder:
    """Scan one class folder.

    Args:
        scan: takes the counts.
        split: of SPLITS.
        path: of the class folder, relative to the root.
        above: the folders that it lies in, the root ("") among them.
    """
    left_out: Counter[str] = Counter()
    ancestors = frozenset(_identify(scan, one) for one in above)
    files = _collect(scan, path, ancestors, left_out, is_class=True)
    scan.left_out += left_out

    return ClassFolder(split, path, FileNames.of(files), left_out)


def scan_images(scan: FolderScan) -> list[str]:
    """Return the images anywhere below the root, relative to it: those of a folder by name, then of those within it.

    What a dataset's class folder leaves out is left out here, and counted.

    Args:
        scan: takes the counts.
    """
    return _collect(scan, "", frozenset(), scan.left_out)


def _identify(scan: FolderScan, path: str) -> tuple[int, int]:
    """Return what tells a folder from any other, whatever links lead to it."""
    status = os.stat(os.path.join(scan.root, path))
    return status.st_dev, status.st_ino


def _collect(
    scan: FolderScan,
    path: str,
    ancestors: frozenset[tuple[int, int]],
    left_out: Counter[str],
    is_class: bool = False,
) -> list[str]:
    """Return the images of a folder, in order, then those of the folders within it; count what is left out."""
    identity = _identify(scan, path)
    if identity in ancestors or len(ancestors) > _DEEPEST:
        scan.loops.append(path)
        return []

    prefix = f"{path}/" if path else ""
    files = []
    folders = []
    for entry in list_entries(scan, path):
        name = entry.name
        has_suffix = suffix_of(name) in scan.suffixes
        if has_suffix and entry.is_file(follow_symlinks=False):  # most: no need to ask more
            files.append(f"{prefix}{name}")
            continue
        if is_folder(entry):
            folders.append(name)
            continue

        is_image, suffix = image_suffix(scan, entry)
        if is_image:
            files.append(f"{prefix}{name}")
        else:
            left_out[suffix] += 1

    files.sort()
    if files:
        scan.holders.append(path)
    for name in sorted(folders):
        inner = f"{prefix}{name}"
        below = _collect(scan, inner, ancestors | {identity}, left_out)
        if below and is_class:
            scan.nested[inner] = len(below)
        if not below and suffix_of(name) in scan.suffixes:
            below = [inner]  # a folder called x.jpg: decoding reports it as a bad image
        files += below
    return files


def class_name_of(found: ClassFolder) -> str:
    """Return the class of a folder: its name, cleaned."""
    return clean_label(os.path.basename(found.path))
