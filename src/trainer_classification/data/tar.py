"""The `tar` format: WebDataset shards of the original files, pre-shuffled, with DALI's index beside each.

    tar/<split>-000000.tar      <id>.jpg or .png (the original bytes) and <id>.cls (label in digits)
    tar/<split>-000000.idx      DALI's index, "v1.2": one line per sample, as its wds2idx makes it
    tar/<split>.xxh3            uint64 [n], little endian: xxh3-64 of each image's bytes

<id> is the sample id in nine digits: the row in the split's table, whatever the
shuffling. Headers are ustar without time, owner or host, so that equal datasets
give equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer_classification.arrays import Int32, Int64
from trainer_classification.data.formats import Extents, SplitShards
from trainer_classification.data.manifest import (
    Manifest,
    check_contents,
    check_files,
    check_format,
    damaged,
)
from trainer_classification.data.mirror import is_mirror
from trainer_classification.data.remote_images import RemoteImages, open_images

SHARD_BYTES = 64 << 20  # a shard is closed when it would grow past this
END_BYTES = 1024  # two blocks of zeros end an archive
_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_INDEX_NUMBERS = 6  # of a line
_INDEX_WORDS = b" \n.jpgnecls"  # characters of jpg, png and cls, and between numbers
_WORDS_TO_BLANKS = bytes.maketrans(_INDEX_WORDS, b" " * len(_INDEX_WORDS))
_LARGEST = np.iinfo(np.int64).max  # numpy gives it for any larger number
_Ranges = tuple[Int64, Int64]  # offsets and sizes in a shard, [n] each
_SHUFFLE_SEED = 0x7A12  # fixed, so that every machine writes the same shards


@dataclass(frozen=True)
class TarLayout:
    """Which shard each sample is in, and where.

    Attributes:
        shards: int32, the samples of each shard in the order in which they are
            written.
        offsets, sizes: int64 [n], of a sample's blocks in its shard: headers,
            image, label.
    """

    shards: list[Int32]
    offsets: Int64
    sizes: Int64


def order_of(count: int) -> Int32:
    """Return the shuffled order in which the samples of a split are written: int32 [n], as ids have nine digits."""
    order = np.random.Generator(np.random.Philox(key=_SHUFFLE_SEED)).permutation(count)
    return order.astype(np.int32)


def layout(sizes: Int64, shard_bytes: int = SHARD_BYTES) -> TarLayout:
    """Lay out a split.

    Args:
        sizes: int64 [n], bytes of each image.
        shard_bytes: a shard is closed when it would grow past this many bytes.
    """
    needed = 3 * _BLOCK + sizes + -sizes % _BLOCK  # two headers and the digits of the label

    order = order_of(len(sizes))
    ends = np.zeros(len(order) + 1, np.int64)
    np.cumsum(needed[order], out=ends[1:])
    offsets = np.zeros_like(needed)
    shards = []
    first = 0
    while first < len(order):
        limit = ends[first] + shard_bytes - END_BYTES
        last = int(np.searchsorted(ends, limit, "right")) - 1
        last = max(last, first + 1)  # a file larger than a shard has one of its own
        shards.append(order[first:last])
        offsets[shards[-1]] = ends[first:last] - ends[first]
        first = last

    return TarLayout(shards, offsets, needed)


def shard_name(split: str, number: int) -> str:
    """Return the name of a shard without its suffix."""
    return f"{split}-{number:06d}"


def checksums_path(split: str) -> str:
    """Return the path of the checksums of a split's images, relative to the manifest's folder."""
    return f"tar/{split}.xxh3"


def suffix_of(kind: str) -> str:
    """Return the suffix of an image's name in a tar, by the kind of its file.

    There is one suffix per kind, because readers ask for images by it. The
    original name does not decide: it may have no suffix, or a blank in it. What
    is neither JPEG nor PNG is converted to PNG.
    """
    return ".jpg" if kind == "jpeg" else ".png"


def sample_blocks(sample: int, suffix: str, data: bytes, label: int) -> bytes:
    """Return the image and the label of a sample as they lie in the shard."""
    pieces = []
    for name, content in (
        (f"{sample:09d}{suffix}", data),
        (f"{sample:09d}.cls", str(label).encode()),
    ):
        pieces += [_header(name, len(content)), content, _ZEROS[: -len(content) % _BLOCK]]
    return b"".join(pieces)


_AFTER_NAME = b"0000644\0" + b"0000000\0" * 2  # mode, owner and group
_TIME = b"%011o\0" % 0
_AFTER_CHECKSUM = b"0".ljust(101, b"\0") + b"ustar\00000".ljust(_BLOCK - 257, b"\0")
# The part of the checksum that does not depend on name and size; its own field
# counts as blanks.
_CHECKSUM = sum(_AFTER_NAME) + sum(_TIME) + 8 * ord(" ") + sum(_AFTER_CHECKSUM)


def _header(name: str, size: int) -> bytes:
    """Return a file's ustar header (POSIX.1-1988) without time and owner.

    `tarfile` takes ten times as long.
    """
    assert len(name) <= 100
    assert size < 1 << 33
    name_bytes = name.encode()
    size_bytes = b"%011o\0" % size
    checksum = b"%06o\0 " % (_CHECKSUM + sum(name_bytes) + sum(size_bytes))
    return b"".join(
        (name_bytes.ljust(100, b"\0"), _AFTER_NAME, size_bytes, _TIME, checksum, _AFTER_CHECKSUM)
    )


def index_line(sample: int, suffix: str, size: int, label: int, offset: int) -> str:
    """Return the line of a sample in DALI's index."""
    label_offset = offset + 2 * _BLOCK + size + -size % _BLOCK
    image = f"{suffix[1:]} {offset + _BLOCK} {size} {sample:09d}{suffix}"
    return f"{image} cls {label_offset} {len(str(label))} {sample:09d}.cls"


def index_text(lines: Sequence[str]) -> str:
    """Return DALI's index: its version and the number of samples, then one line per sample."""
    return "\n".join([f"v1.2 {len(lines)}", *lines]) + "\n"


@dataclass(frozen=True)
class TarStore:
    """The files of a split, by sample id.

    Attributes:
        shards: uint8, each shard memory-mapped.
        shard: int64 [n], which shard a sample is in.
        offsets, sizes: int64 [n], where the bytes of its image are.
        checksums: uint64 [n], xxh3-64 of these bytes; None: not known.
        remote: fetches images that have to be asked for before they are read; None:
            all are here.
    """

    shards: list[npt.NDArray[np.uint8]]
    shard: Int64
    offsets: Int64
    sizes: Int64
    checksums: npt.NDArray[np.uint64] | None = None
    remote: RemoteImages | None = None

    @cached_property
    def labels(self) -> Int64:
        """The label of each sample, int64 [n].

        They are read out of the shards, of which this touches every page; the
        split's table has them as well.

        Raises:
            ValueError: one is no number.
        """
        return np.array([self._read_label(sample) for sample in range(len(self.shard))], np.int64)

    def _read_label(self, sample: int) -> int:
        shard = self.shards[self.shard[sample]]
        image_end = int(self.offsets[sample] + self.sizes[sample])
        start = image_end + -image_end % _BLOCK + _BLOCK  # behind the header of the label
        digits = bytes(shard[start : start + _BLOCK]).rstrip(b"\0")
        if not digits.isdigit() and digits != b"-1":  # -1: none
            path = getattr(shard, "filename", "a tar")
            raise ValueError(
                f"{path} is damaged: prepare the dataset again with prepare.py --force."
            )
        return int(digits)

    def image(self, sample: int) -> npt.NDArray[np.uint8]:
        """Return the bytes of an original file, uint8 [size], without a copy."""
        start = self.offsets[sample]
        return self.shards[self.shard[sample]][start : start + self.sizes[sample]]

    def find_damaged(
        self, samples: Int64, images: Sequence[npt.NDArray[np.uint8]]
    ) -> tuple[int, Path] | None:
        """Compare images with their checksums, where these are known.

        Args:
            samples: int64 [B].
            images: the bytes of each.

        Returns:
            The first sample that differs, and its shard; None: there is none.
        """
        if self.checksums is None:
            return None
        from xxhash import xxh3_64_intdigest  # not needed to train on other formats

        found = np.array([xxh3_64_intdigest(image.data) for image in images], np.uint64)
        wrong = np.flatnonzero(found != self.checksums[samples])
        if len(wrong) == 0:
            return None
        sample = int(samples[wrong[0]])
        return sample, Path(getattr(self.shards[self.shard[sample]], "filename", "a tar"))


def open_tars(folder: Path, split: str, count: int) -> TarStore:
    """Memory-map the shards of a split, by their indices.

    Args:
        folder: that holds the shards.
        split: its name.
        count: number of samples.

    Raises:
        ValueError: samples are missing, or a shard is damaged or shorter than its
            index says.
    """
    store = TarStore(
        shards=[],
        shard=np.full(count, -1, np.int64),
        offsets=np.zeros(count, np.int64),
        sizes=np.zeros(count, np.int64),
    )
    for content, samples, images in _read_shards(folder, split, count):
        store.shard[samples] = len(store.shards)
        store.offsets[samples], store.sizes[samples] = images
        store.shards.append(content)
    return store


def _read_shards(
    folder: Path, split: str, count: int
) -> Iterator[tuple[np.memmap[Any, np.dtype[np.uint8]], Int64, _Ranges]]:
    """Yield each shard of a split with its samples, and where their images are, in the order of its index.

    Arguments and errors are those of `open_tars`; samples are known to be missing
    at the end.
    """
    is_there = np.zeros(count, bool)
    for index in sorted(folder.glob(f"{split}-*.idx")):
        content = np.memmap(index.with_suffix(".tar"), np.uint8, "r")
        samples, images = _read_index(index, content, count)
        is_there[samples] = True
        yield content, samples, images

    missing = count - int(is_there.sum())
    if missing:
        raise ValueError(
            f"{folder} lacks {missing} of {count} samples of {split}: prepare the dataset again."
        )


def _read_index(index: Path, content: npt.NDArray[np.uint8], count: int) -> tuple[Int64, _Ranges]:
    """Return the samples of a shard, and where in its content their images are.

    Raises:
        ValueError: it is damaged, or shorter than its index says.
    """
    path = index.with_suffix(".tar")
    lines = index.read_text(encoding="utf-8", errors="replace").partition("\n")[2]
    try:
        samples, images, labels = _parse_index(lines, count)
    except ValueError:
        line = _find_damaged_line(lines, count)
        raise ValueError(
            f"{index} is damaged ({line[:80]!r}): prepare the dataset again with prepare.py --force."
        ) from None
    for offsets, sizes in (images, labels):
        # In this order: the sum of two large numbers would be negative.
        if (sizes > len(content)).any() or (offsets > len(content) - sizes).any():
            raise ValueError(
                f"{path} is cut off: prepare the dataset again with prepare.py --force."
            )
    return samples, images


def _parse_index(lines: str, count: int) -> tuple[Int64, _Ranges, _Ranges]:
    """Return the samples of a shard, and where their images and their labels are.

    All numbers together: line by line, opening takes twelve times as long.

    Args:
        lines: of the index, but for the first.
        count: samples of the split.

    Raises:
        ValueError: a line is damaged.
    """
    content = lines.encode()
    if content.translate(None, b"0123456789" + _INDEX_WORDS):
        raise ValueError("a line has what is no word and no number")
    rows = len(lines.splitlines())
    if not rows:
        nothing = np.zeros(0, np.int64)
        return nothing, (nothing, nothing), (nothing, nothing)

    numbers = np.fromstring(content.translate(_WORDS_TO_BLANKS), np.int64, sep=" ")
    if len(numbers) != rows * _INDEX_NUMBERS:
        raise ValueError("a line has too many fields, or too few")
    columns = np.ascontiguousarray(numbers.reshape(rows, _INDEX_NUMBERS).T)
    starts, sizes, samples, label_starts, label_sizes, label_samples = columns
    if (samples != label_samples).any() or (numbers == _LARGEST).any():
        raise ValueError("image and label are of two samples, or a number has more than 63 bits")
    if (samples >= count).any():
        raise ValueError("there is no such sample")

    return samples, (starts, sizes), (label_starts, label_sizes)


def _find_damaged_line(lines: str, count: int) -> str:
    """Return the first line of an index that `_parse_index` does not accept."""
    for line in lines.splitlines():
        try:
            samples, _, _ = _parse_index(line, count)
        except ValueError:
            return line
        if len(samples) != 1:
            return line
    return lines


def open_split(folder: Path, manifest: Manifest, split: str, on_demand: bool = False) -> TarStore:
    """Memory-map the shards of a split of a prepared dataset.

    Args:
        folder: of the prepared dataset.
        manifest: of the prepared dataset.
        split: one of its splits.
        on_demand: as for `open_array`.

    Raises:
        ValueError: the split or the format is missing or damaged.
    """
    check_format(folder, manifest, "tar")
    names = sorted(name for name in manifest.files if name.startswith(f"tar/{split}-"))
    indices = [name for name in names if name.endswith(".idx")]
    tars = [name for name in names if name.endswith(".tar")]
    check_files(folder, manifest, split, indices)
    check_files(folder, manifest, split, tars, on_demand)
    check_contents(folder, manifest, indices)
    store = open_tars(folder / "tar", split, manifest.splits[split].count)
    if checksums_path(split) in manifest.files:
        store = replace(store, checksums=_read_checksums(folder, manifest, split))
    if on_demand and is_mirror(folder):
        files = {name: manifest.files[name].bytes for name in tars}
        remote = open_images(folder, files, store.shard, store.offsets, store.sizes)
        store = replace(store, remote=remote)
    return store


def _read_checksums(folder: Path, manifest: Manifest, split: str) -> npt.NDArray[np.uint64] | None:
    """Return the checksum of each image; None without xxhash, which a machine that only trains may lack."""
    name = checksums_path(split)
    check_files(folder, manifest, split, [name])
    check_contents(folder, manifest, [name])
    checksums = np.fromfile(folder / name, "<u8")
    if len(checksums) != manifest.splits[split].count:
        raise damaged(folder / name, manifest, f"{len(checksums)} checksums")
    return checksums if find_spec("xxhash") else None


def extents(shards: SplitShards) -> list[Extents]:
    """Return where a reader finds the images of each shard of a split."""
    found = []
    for number, (_, samples, (offsets, sizes)) in enumerate(
        _read_shards(shards.folder / "tar", shards.split, shards.count)
    ):
        path = f"tar/{shard_name(shards.split, number)}.tar"
        # Copies, without the labels' places.
        found.append(Extents(path, samples.copy(), offsets.copy(), sizes.copy()))
    return found


def shard_extents(folder: Path, path: str, count: int) -> Extents:
    """Return where a reader finds the images of one shard.

    Args:
        folder: that holds the manifest.
        path: of the shard, relative to it.
        count: every sample id is less.

    Raises:
        ValueError: its index is damaged, or it is shorter than that says.
    """
    shard = folder / path
    samples, images = _read_index(shard.with_suffix(".idx"), np.memmap(shard, np.uint8, "r"), count)
    return Extents(path, samples, *images)
