"""The `tar` format: WebDataset shards of the original files, pre-shuffled, with DALI's index beside each.

    tar/<split>-000000.tar      <id>.jpg (the original bytes; or another suffix) and <id>.cls (label in digits)
    tar/<split>-000000.idx      DALI's index, "v1.2": a line a sample, as its wds2idx makes it

<id> is the sample id, nine digits: the row in the order of the array, whatever the shuffling. Headers are ustar without
time, owner or host, so that equal datasets give equal bytes.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

SHARD = 64 << 20  # bytes of a shard, about
_BLOCK = 512
_SEED = 0x7A12  # of the shuffling: fixed, so that every machine writes the same shards


@dataclass(frozen=True)
class Member:
    """Where a file's bytes lie in a shard."""

    name: str
    suffix: str
    offset: int
    size: int


def order_of(count: int) -> npt.NDArray[np.int64]:
    """The pre-shuffled order in which a split's samples are written: int64 [n]."""
    return np.random.Generator(np.random.Philox(key=_SEED)).permutation(count)


def write_tars(
    folder: Path,
    split: str,
    read: Callable[[int], tuple[bytes, str]],
    labels: npt.NDArray[np.int64],
    shard_size: int = SHARD,
) -> list[Path]:
    """Write the shards of a split and their indices; memory holds one file.

    Args:
        folder: gets `<split>-<number>.tar` and `.idx`.
        split: its name.
        read: sample id -> (bytes of the original file, suffix with its dot).
        labels: int64 [n].
        shard_size: a shard is closed when it would grow past this many bytes.

    Returns:
        All files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    waiting = [int(sample) for sample in order_of(len(labels))[::-1]]
    written: list[Path] = []
    while waiting:
        stem = folder / f"{split}-{len(written) // 2:06d}"
        entries = _write_shard(stem.with_suffix(".tar"), waiting, read, labels, shard_size)
        stem.with_suffix(".idx").write_text(_index(entries))
        written += [stem.with_suffix(".tar"), stem.with_suffix(".idx")]
    return written


def _write_shard(
    path: Path,
    waiting: list[int],
    read: Callable[[int], tuple[bytes, str]],
    labels: npt.NDArray[np.int64],
    shard_size: int,
) -> list[list[Member]]:
    """Take samples from the end of `waiting` until the shard is full; returns the members of each."""
    entries: list[list[Member]] = []
    with path.open("wb") as file:
        while waiting:
            sample = waiting[-1]
            data, suffix = read(sample)
            # Two headers, the label's block, the data's last one, and the end of the archive.
            if entries and file.tell() + len(data) + 6 * _BLOCK > shard_size:
                break
            waiting.pop()
            key, label = f"{sample:09d}", str(labels[sample]).encode()
            entries.append([_append(file, key, suffix, data), _append(file, key, ".cls", label)])
        file.write(bytes(2 * _BLOCK))  # the end of an archive
    return entries


def _append(file: BinaryIO, key: str, suffix: str, data: bytes) -> Member:
    info = tarfile.TarInfo(key + suffix.lower())
    info.size, info.mode = len(data), 0o644
    file.write(info.tobuf(tarfile.USTAR_FORMAT))
    offset = file.tell()
    file.write(data + bytes(-len(data) % _BLOCK))
    return Member(info.name, suffix.lower().removeprefix("."), offset, len(data))


def _index(entries: list[list[Member]]) -> str:
    """DALI's index: its version and the number of samples, then the members of each."""
    lines = [f"v1.2 {len(entries)}"]
    lines += [" ".join(f"{m.suffix} {m.offset} {m.size} {m.name}" for m in members) for members in entries]
    return "\n".join(lines) + "\n"


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
        ValueError: samples are missing, or a shard is shorter than its index says.
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
            labels[sample] = int(bytes(shards[-1][int(label_offset) : end]))
    if (shard < 0).any():
        raise ValueError(f"{folder} lacks {int((shard < 0).sum())} of {count} samples of {split}: prepare it again.")
    return TarStore(shards, shard, offsets, sizes, suffixes, labels)
