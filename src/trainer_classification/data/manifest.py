"""The manifest of a prepared dataset: what it holds, how it was made, and the checksums of its files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from trainer_classification.data import mirror
from trainer_classification.data.formats import GRAY_SHIFT, ArrayLayout
from trainer_classification.data.split_names import UNLABELED
from trainer_classification.files import check_kinds, hash_file, parse_json, write_atomically

FORMAT_VERSION = 3
_MAX_SIDE = 1 << 16
FILE_NAME = "manifest.json"
DIGEST_NAME = "manifest.sha256"  # as sha256sum writes it; missing beside older manifests


@dataclass(frozen=True)
class SplitInfo:
    """One split of the prepared dataset.

    Attributes:
        count: images in the shards.
        origin: "dataset" (it came with it), or how it was cut: "cut, 20% of
            train".
        per_class: images of each class, in the order of `Manifest.class_names`;
            zeros without labels.
    """

    count: int
    origin: str
    per_class: list[int]


@dataclass(frozen=True)
class FileInfo:
    """One file of a prepared dataset.

    Attributes:
        bytes: its size.
        xxh3: xxh3-128 of its content, as 32 hex digits.
        index: xxh3-128 of what says where its images are, if it holds that itself;
            checked whenever the file is opened. Empty: not known.
    """

    bytes: int
    xxh3: str
    index: str = field(default="", compare=False)


@dataclass(frozen=True)
class Manifest:
    """Everything a loader needs to know about a prepared dataset.

    Attributes:
        dataset, version, task: as the source names them.
        root: folder of the original files when they were prepared.
        formats: the options of each format that is here, by name; each format has
            all splits.
        class_names: index = label.
        splits: "train", "validation", "test" -> SplitInfo, and "test_unlabeled"
            and its like for the images without a label; only splits that have
            images.
        channels: 1 (every image is gray) or 3.
        image_size: side in px of the images in the array.
        train_size: side in px of the images the network is meant to see.
        resized: False: images keep their size (train_size == image_size) and are
            padded if sizes differ. True: each is resized whole to image_size x
            image_size, antialiased.
        layout: order of an image's bytes in the array: "HWC", or "WHC" (x before
            y) for resized images.
        mean, std: per channel, of 0..1, of the train images as the array has
            them; if resized, of some of them.
        files: path relative to the manifest's folder -> FileInfo.
        skipped: {"file", "split", "reason"} of each image that was left out.
        unlabelled: number of rows without a label of this task.
        duplicates: {"splits", "files"} of each group of equal images in more than
            one split.
        conflicts: {"classes", "files"} of each group of equal images with more
            than one label.
        mirrored_classes: names of the two classes of each pair whose images mirror
            into each other, so that flips are off by default.
        options: the options that shaped the bytes.
        fingerprint: hash of source and options; equal fingerprints mean equal
            bytes.
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
    conflicts: list[dict[str, list[str]]] = field(default_factory=list)
    mirrored_classes: list[list[str]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Number of images, over all splits."""
        return sum(split.count for split in self.splits.values())

    @property
    def array_layout(self) -> ArrayLayout:
        """The shape of the images in the array."""
        return ArrayLayout(self.image_size, self.resized, self.channels)

    @property
    def image_bytes(self) -> int:
        """Bytes of one image in the array."""
        return self.array_layout.image_bytes

    @property
    def gray_shift(self) -> int:
        """Bits that gray images of 16 and 32 bits lost."""
        return int(self.options.get("gray_shift", GRAY_SHIFT))

    @property
    def labeled_splits(self) -> list[str]:
        """Names of the splits whose images have labels."""
        return [name for name in self.splits if name not in UNLABELED]

    @property
    def unlabeled_splits(self) -> list[str]:
        """Names of the splits whose images have none, and -1 in their tables."""
        return [name for name in self.splits if name in UNLABELED]

    def write(self, folder: Path) -> None:
        """Write `folder/manifest.json`, and its checksum beside it, each atomically."""
        content = json.dumps(dataclasses.asdict(self), indent=1).encode()
        write_atomically(folder / DIGEST_NAME, _describe_digest(content))
        write_atomically(folder / FILE_NAME, content)


def _describe_digest(content: bytes) -> str:
    """Return the line that `sha256sum` would write about a manifest."""
    return f"{hashlib.sha256(content).hexdigest()}  {FILE_NAME}\n"


def is_prepared(folder: Path) -> bool:
    """Return whether a folder holds a dataset that this program prepared, in any version, even a damaged one."""
    try:
        is_checked = (folder / DIGEST_NAME).read_text(encoding="utf-8").endswith(FILE_NAME + "\n")
    except (OSError, ValueError):
        is_checked = False
    return bool(read_any_version(folder)) or (is_checked and (folder / FILE_NAME).is_file())


def read_any_version(folder: Path) -> dict[str, Any]:
    """Return the content of a manifest that this program wrote, in any version; empty if there is none."""
    try:
        content = parse_json((folder / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    is_ours = isinstance(content, dict) and {"format_version", "fingerprint"} <= content.keys()
    return content if is_ours else {}


def read(folder: Path) -> Manifest:
    """Read `folder/manifest.json`.

    Raises:
        ValueError: there is none, it is damaged, or it has another format version;
            gives the command that prepares the dataset again.
    """
    path = folder / FILE_NAME
    again = "prepare the dataset again: python scripts/prepare.py --dataset NAME --force"
    if not path.is_file():
        raise ValueError(f"{folder} holds no prepared dataset (no {FILE_NAME}): {again}")
    data = path.read_bytes()
    try:
        content = parse_json(data)
        version = content.get("format_version")
        if version == FORMAT_VERSION:
            _check_digest(folder, data)
            return _from_json(content)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}): {again}") from error
    raise ValueError(
        f"{path} has format version {version}, and this program reads {FORMAT_VERSION}: {again}"
    )


def _check_digest(folder: Path, content: bytes) -> None:
    """Raise ValueError if a manifest differs from the checksum beside it."""
    digest = folder / DIGEST_NAME
    if digest.is_file() and digest.read_bytes() != _describe_digest(content).encode():
        raise ValueError(f"it differs from {DIGEST_NAME}")


def _from_json(content: dict[str, Any]) -> Manifest:
    splits = {name: SplitInfo(**info) for name, info in content["splits"].items()}
    files = {name: FileInfo(**info) for name, info in content["files"].items()}
    manifest = Manifest(**content | {"splits": splits, "files": files})
    for part in (manifest, *splits.values(), *files.values()):
        check_kinds(part)
    _check_numbers(manifest)
    return manifest


def _check_numbers(manifest: Manifest) -> None:
    """Raise ValueError if numbers of a manifest do not fit each other."""
    classes = len(manifest.class_names)
    is_right = {
        "channels": manifest.channels in (1, 3),
        "image_size": 0 < manifest.image_size <= _MAX_SIDE,
        "train_size": 0 < manifest.train_size <= _MAX_SIDE,
        "mean": len(manifest.mean) == manifest.channels,
        "std": len(manifest.std) == manifest.channels,
        "splits": all(
            split.count >= 0 and len(split.per_class) == classes
            for split in manifest.splits.values()
        ),
        "options": manifest.options.get("gray_shift", GRAY_SHIFT) in range(33),
    }
    for name in (name for name, right in is_right.items() if not right):
        raise ValueError(f"{name} is {str(getattr(manifest, name))[:60]!r}")


def read_matching(folder: Path, fingerprint: str) -> Manifest | None:
    """Return the manifest of a folder if it was prepared with this fingerprint; else None."""
    try:
        found = read(folder)
    except ValueError:
        return None
    return found if found.fingerprint == fingerprint else None


def find(parent: Path, fingerprint: str) -> Iterator[Path]:
    """Yield the prepared datasets in a folder that have a fingerprint, in the order of their names."""
    folders: list[Path] = []
    with suppress(OSError):  # not there, or not for this user
        folders = sorted(parent.iterdir())
    for folder in folders:
        is_like = read_any_version(folder).get("fingerprint") == fingerprint
        is_whole = not folder.name.endswith((".partial", ".old"))
        if is_like and is_whole and read_matching(folder, fingerprint) is not None:
            yield folder


def check_files(
    folder: Path, manifest: Manifest, split: str, names: Collection[str], on_demand: bool = False
) -> None:
    """Check that a split is there and that its files have the sizes that the manifest gives.

    Files of a dataset in object storage are fetched first.

    Args:
        folder: of the prepared dataset.
        manifest: of the prepared dataset.
        split: one of its splits.
        names: of the files.
        on_demand: whoever reads the images asks for them first (`mirror.py`).

    Raises:
        ValueError: they do not; gives the command that prepares the dataset
            again.
    """
    if split not in manifest.splits:
        raise ValueError(f"{folder} has no split {split!r}; it has: {', '.join(manifest.splits)}.")
    if mirror.is_mirror(folder):
        bring_files(folder, manifest, names, on_demand)
    for name in names:
        if name not in manifest.files:
            raise damaged(folder / name, manifest, "the manifest lacks it")
        size = (folder / name).stat().st_size if (folder / name).is_file() else None
        if size != manifest.files[name].bytes:
            expected = manifest.files[name].bytes
            raise damaged(folder / name, manifest, f"{size} bytes instead of {expected}")


def bring_files(
    folder: Path, manifest: Manifest, names: Iterable[str], on_demand: bool = False
) -> None:
    """Fetch files of a mirror; arguments and errors are those of `check_files`."""
    known = {name: manifest.files[name] for name in names if name in manifest.files}
    files = {name: (info.bytes, info.xxh3) for name, info in known.items()}
    mirror.bring(folder, files, on_demand)


def check_contents(folder: Path, manifest: Manifest, names: Iterable[str]) -> None:
    """Compare small files, whose sizes are right, with their checksums.

    Without xxhash, which a machine that only trains may lack, nothing is compared.

    Raises:
        ValueError: one differs.
    """
    if find_spec("xxhash") is None:
        return
    for name in names:
        if file_info(folder / name) != manifest.files[name]:
            raise damaged(folder / name, manifest, "its content is not what was written")


def damaged(path: Path, manifest: Manifest, problem: str) -> ValueError:
    """Return the error of a damaged file of a prepared dataset: one sentence, with the command that mends it."""
    return ValueError(
        f"{path} is damaged ({problem}): prepare the dataset again: "
        f"python scripts/prepare.py --dataset {manifest.dataset} --force"
    )


def check_format(folder: Path, manifest: Manifest, name: str) -> None:
    """Check that a format is there.

    Raises:
        ValueError: it is not; gives the command that adds it.
    """
    if name not in manifest.formats:
        raise ValueError(
            f"{folder} holds {', '.join(manifest.formats) or 'no format'}, not {name}: "
            f"python scripts/prepare.py --dataset {manifest.dataset} --formats {name} adds it."
        )


def largest_format(content: bytes) -> int:
    """Return the bytes of the largest format by the content of a manifest; 0 if it cannot be read."""
    sizes: dict[str, int] = {}
    with suppress(ValueError, LookupError, TypeError, AttributeError):
        for name, info in parse_json(content)["files"].items():
            kind = name.partition("/")[0]
            sizes[kind] = sizes.get(kind, 0) + info["bytes"]
    return max(sizes.values(), default=0)


def list_files(content: bytes | None) -> dict[str, FileInfo]:
    """Return the files that a manifest lists, by its content; none if it cannot be read."""
    try:
        files = {} if content is None else parse_json(content)["files"]
        return {name: FileInfo(**info) for name, info in files.items()}
    except (ValueError, LookupError, TypeError, AttributeError):
        return {}


def is_whole(folder: Path) -> bool:
    """Return whether a folder has all files that its manifest lists, whatever their content."""
    files = list_files((folder / FILE_NAME).read_bytes())
    return all((folder / name).is_file() for name in files)


def file_info(path: Path) -> FileInfo:
    """Return size and checksum of a file."""
    return FileInfo(*hash_file(path))


def verify(folder: Path, manifest: Manifest) -> None:
    """Compare every file of the manifest with its checksum.

    Raises:
        ValueError: one is missing or differs; names it, and gives the command
            that prepares the dataset again.
    """
    for name, expected in manifest.files.items():
        path = folder / name
        found = file_info(path) if path.is_file() else None
        if found is None:
            raise damaged(path, manifest, "it is missing")
        if found != expected:
            raise damaged(path, manifest, "its content is not what was written")
