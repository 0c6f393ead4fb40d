"""The `tar` format: WebDataset shards of the original files, pre-shuffled, with DALI's index beside each.

    tar/<split>-000000.tar      <id>.jpg or .png (the original bytes) and <id>.cls (label in digits)
    tar/<split>-000000.idx      DALI's index, "v1.2": a line a sample, as its wds2idx makes it

<id> is the sample id, nine digits: the row in the order of the array, whatever the shuffling. Headers are ustar without
time, owner or host, so that equal datasets give equal bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from trainer_classification.files import read_file
from trainer_classification.preparation.assemble import in_place, in_threads, link
from trainer_classification.preparation.preallocated import Extents

if TYPE_CHECKING:
    from trainer_classification.preparation.assemble import JobOutputs

Int64 = npt.NDArray[np.int64]

SHARD = 64 << 20  # bytes of a shard, about
_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_END = 2 * _BLOCK  # zeros that end an archive
_SEED = 0x7A12  # of the shuffling: fixed, so that every machine writes the same shards


def order_of(count: int) -> npt.NDArray[np.int64]:
    """The pre-shuffled order in which a split's samples are written: int64 [n]."""
    return np.random.Generator(np.random.Philox(key=_SEED)).permutation(count)


def write_split(
    folder: Path,
    split: str,
    parts: JobOutputs,
    rows: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    side: int,
    channels: int,
) -> list[str]:
    """Write a split from the original files and the parts of the jobs, as `array.write_split`.

    Raises:
        ValueError: a file is no longer what was decoded.
    """

    sizes = parts.found.bytes[rows, 2]
    suffixes = parts.found.suffixes[rows].tolist()
    plan = layout(sizes, labels)
    there = [in_place(parts, "tar", rows[samples], plan.places[samples]) for samples in plan.shards]

    def read(sample: int) -> bytes:
        row = int(rows[sample])
        if parts.found.converted[row]:
            return parts.piece("tar", row)
        data = read_file(parts.originals[row])
        if len(data) != sizes[sample]:
            raise ValueError(f"{parts.originals[row]} has changed while it was prepared: start again.")
        return data

    if None in there:
        written = write_tars(folder / "tar", split, read, sizes, suffixes, labels)
    else:
        written = _take_over(there, folder / "tar", split, plan, sizes, suffixes, labels)
    return [str(path.relative_to(folder)) for path in written]


def _take_over(
    written: Sequence[Path | None],
    folder: Path,
    split: str,
    plan: Layout,
    sizes: Int64,
    suffixes: Sequence[str],
    labels: Int64,
) -> list[Path]:
    """Finish the shards that jobs have written to their slots."""
    stems = _stems(folder, split, len(plan.shards))
    for stem, made, samples in zip(stems, written, plan.shards, strict=True):
        assert made is not None
        link(made, stem.with_suffix(".tar"))
        end = int((plan.places + plan.sizes)[samples[-1]])
        os.truncate(stem.with_suffix(".tar"), end)  # without what was written of images that came after
        os.truncate(stem.with_suffix(".tar"), end + _END)
        lines = [
            _line(sample, suffixes[sample], int(sizes[sample]), int(labels[sample]), int(plan.places[sample]))
            for sample in samples.tolist()
        ]
        stem.with_suffix(".idx").write_text(_index(lines))
    return _files(stems)


def suffix_of(kind: str) -> str:
    """Of an image's name in a tar, by the kind of its file: one for each, as readers ask for it by name.

    Not by the file's name, which may have no suffix or a blank in it. What is neither JPEG nor PNG is converted to PNG.
    """
    return ".jpg" if kind == "jpeg" else ".png"


def extents(folder: Path, split: str, count: int, side: int, channels: int) -> list[Extents]:
    """Where a reader finds the samples of each file, to check what was written."""
    store = open_tars(folder / "tar", split, count)
    there = [np.flatnonzero(store.shard == number) for number in range(len(store.shards))]
    return [
        Extents(f"tar/{_name(split, number)}.tar", samples, store.offsets[samples], store.sizes[samples])
        for number, samples in enumerate(there)
    ]


def write_tars(
    folder: Path,
    split: str,
    read: Callable[[int], bytes],
    sizes: npt.NDArray[np.int64],
    suffixes: Sequence[str],
    labels: npt.NDArray[np.int64],
    shard_size: int = SHARD,
) -> list[Path]:
    """Write the shards of a split and their indices, on all CPUs; memory holds a file for each.

    Args:
        folder: gets `<split>-<number>.tar` and `.idx`.
        split: its name.
        read: sample id -> bytes of its file.
        sizes: int64 [n], how many these are.
        suffixes: of each file's name, lower case, with the dot.
        labels: int64 [n].
        shard_size: a shard is closed when it would grow past this many bytes.

    Returns:
        All files written.
    """
    plan = layout(sizes, labels, shard_size)
    stems = _stems(folder, split, len(plan.shards))

    def write(job: tuple[Path, Int64]) -> None:
        stem, samples = job
        lines = []
        with stem.with_suffix(".tar").open("wb") as file:
            for sample in samples.tolist():
                data, label = read(sample), int(labels[sample])
                file.write(blocks(sample, suffixes[sample], data, label))
                lines.append(_line(sample, suffixes[sample], len(data), label, int(plan.places[sample])))
            file.write(bytes(_END))
        stem.with_suffix(".idx").write_text(_index(lines))

    in_threads(write, zip(stems, plan.shards, strict=True))
    return _files(stems)


def _stems(folder: Path, split: str, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    return [folder / _name(split, number) for number in range(count)]


def _name(split: str, number: int) -> str:
    return f"{split}-{number:06d}"


def _files(stems: Sequence[Path]) -> list[Path]:
    return [stem.with_suffix(suffix) for stem in stems for suffix in (".tar", ".idx")]


@dataclass(frozen=True)
class Layout:
    """Which shard each sample is in, and where.

    Attributes:
        shards: int64, the samples of each shard in their order, pre-shuffled.
        places, sizes: int64 [n], of a sample's blocks in its shard.
    """

    shards: list[Int64]
    places: Int64
    sizes: Int64


def layout(sizes: Int64, labels: Int64, shard_size: int = SHARD) -> Layout:
    """Lay out a split of images of so many bytes, int64 [n]."""
    need = 2 * _BLOCK + _padded(sizes) + _padded(np.array([len(str(label)) for label in labels.tolist()]))
    places, place = np.zeros_like(need), 0
    shards: list[list[int]] = [[]]
    for sample in order_of(len(sizes)).tolist():
        size = int(need[sample])
        if shards[-1] and place + size + _END > shard_size:
            shards.append([])
            place = 0
        shards[-1].append(sample)
        places[sample] = place
        place += size
    return Layout([np.array(shard, np.int64) for shard in shards], places, need)


def _padded(sizes: Int64) -> Int64:
    return sizes + -sizes % _BLOCK


def blocks(sample: int, suffix: str, data: bytes, label: int) -> bytes:
    """A sample's image and label as they lie in the shard."""
    pieces = []
    for name, content in ((f"{sample:09d}{suffix}", data), (f"{sample:09d}.cls", str(label).encode())):
        pieces += [_header(name, len(content)), content, _ZEROS[: -len(content) % _BLOCK]]
    return b"".join(pieces)


def _line(sample: int, suffix: str, size: int, label: int, place: int) -> str:
    """A sample's line in DALI's index."""
    label_place = place + 2 * _BLOCK + size + -size % _BLOCK
    image = f"{suffix[1:]} {place + _BLOCK} {size} {sample:09d}{suffix}"
    return f"{image} cls {label_place} {len(str(label))} {sample:09d}.cls"


_AFTER_NAME = b"0000644\0" + b"0000000\0" * 2  # mode, owner and group
_TIME = b"%011o\0" % 0
_AFTER_CHECKSUM = b"0".ljust(101, b"\0") + b"ustar\00000".ljust(_BLOCK - 257, b"\0")
_CHECKSUM = sum(_AFTER_NAME) + sum(_TIME) + 8 * ord(" ") + sum(_AFTER_CHECKSUM)  # of all but name and size


def _header(name: str, size: int) -> bytes:
    """A file's ustar header (POSIX.1-1988) with neither time nor owner; `tarfile` takes ten times as long."""
    assert len(name) <= 100
    assert size < 1 << 33
    named, sized = name.encode(), b"%011o\0" % size
    checksum = b"%06o\0 " % (_CHECKSUM + sum(named) + sum(sized))
    return b"".join((named.ljust(100, b"\0"), _AFTER_NAME, sized, _TIME, checksum, _AFTER_CHECKSUM))


def _index(lines: list[str]) -> str:
    """DALI's index: its version and the number of samples, then a line for each."""
    return "\n".join([f"v1.2 {len(lines)}", *lines]) + "\n"


@dataclass(frozen=True)
class TarStore:
    """The files of a split, by sample id.

    Attributes:
        shards: uint8, each shard memory-mapped.
        shard: int64 [n], which shard a sample is in.
        offsets, sizes: int64 [n], where its image's bytes are.
        suffixes: of each image's name, without the dot.
        labels: int64 [n].
    """

    shards: list[npt.NDArray[np.uint8]]
    shard: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    suffixes: list[str]
    labels: npt.NDArray[np.int64]

    def image(self, sample: int) -> npt.NDArray[np.uint8]:
        """The bytes of an original file, uint8 [size], not copied."""
        start = self.offsets[sample]
        return self.shards[self.shard[sample]][start : start + self.sizes[sample]]


def open_tars(folder: Path, split: str, count: int) -> TarStore:
    """Memory-map the shards of a split, by their indices.

    Raises:
        ValueError: samples are missing, or a shard is damaged or shorter than its index says.
    """
    shard, offsets, sizes, labels = (np.full(count, -1, np.int64) for _ in range(4))
    suffixes = [""] * count
    shards: list[npt.NDArray[np.uint8]] = []
    for number, index in enumerate(sorted(folder.glob(f"{split}-*.idx"))):
        shards.append(np.memmap(index.with_suffix(".tar"), np.uint8, "r"))
        for line in index.read_text().splitlines()[1:]:
            suffix, offset, size, name, _, label_offset, label_size, _ = line.split()
            end = int(label_offset) + int(label_size)
            if end > len(shards[-1]):
                raise ValueError(f"{index.with_suffix('.tar')} is cut off: prepare the dataset again with --force.")
            sample = int(name.partition(".")[0])
            shard[sample], offsets[sample], sizes[sample], suffixes[sample] = number, int(offset), int(size), suffix
            label = bytes(shards[-1][int(label_offset) : end])
            if not label.isdigit():
                raise ValueError(f"{index.with_suffix('.tar')} is damaged: prepare the dataset again with --force.")
            labels[sample] = int(label)
    if (shard < 0).any():
        raise ValueError(f"{folder} lacks {int((shard < 0).sum())} of {count} samples of {split}: prepare it again.")
    return TarStore(shards, shard, offsets, sizes, suffixes, labels)
