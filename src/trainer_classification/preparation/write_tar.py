"""Write the `tar` format."""

from __future__ import annotations

import dataclasses
import functools
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer_classification.arrays import Int64, Integers, Structured, Uint8
from trainer_classification.data import png_chunks, tar
from trainer_classification.data.decode import ImageInfo
from trainer_classification.data.formats import Extents, SplitShards
from trainer_classification.data.source import Source
from trainer_classification.files import read_file
from trainer_classification.preparation.assemble import (
    FormatOutputs,
    complete_file,
    link,
    map_in_threads,
)
from trainer_classification.preparation.coded_column import CodedColumn
from trainer_classification.preparation.format import (
    EncodedImage,
    Format,
    PrepareSpec,
    Regions,
    Shard,
    SourceImage,
    StoredImage,
)
from trainer_classification.preparation.job_result import PART

_ROWS_AT_ONCE = 1 << 16
_OVERHEAD = 2048  # bytes of headers, label and padding of a sample, about
# Of each image's name, in lower case, with the dot.
FIELDS = np.dtype([("suffix", "<U4")])


def encode(image: SourceImage, spec: PrepareSpec) -> EncodedImage:
    """Return the original file, or a PNG of the pixels where decoders would not agree about the file.

    DALI's decoder may end the process at a PNG that libpng refuses.
    """
    kind = image.info.kind
    suffix = tar.suffix_of(kind)
    if not kind or (kind == "png" and not png_chunks.is_sound(image.data)):
        return EncodedImage(_encode_png(image.pixels), (suffix,))

    return _keep_file(image.data, suffix, image.sample, image.label)


def restore(stored: StoredImage) -> EncodedImage:
    """Return an image of an older tar as `encode` would store it."""
    if not stored.is_file:
        return EncodedImage(stored.data, stored.fields)
    return _keep_file(stored.data, str(stored.fields[0]), stored.sample, stored.label)


def _keep_file(data: bytes, suffix: str, sample: int | None, label: int) -> EncodedImage:
    region = None if sample is None else tar.sample_blocks(sample, suffix, data, label)
    return EncodedImage(data, (suffix,), region, is_original=True)


def _encode_png(pixels: Uint8) -> bytes:
    from PIL import Image  # most datasets need no conversion

    file = io.BytesIO()
    Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).save(
        file, "PNG", compress_level=1
    )
    return file.getvalue()


def keeps_file(info: ImageInfo, spec: PrepareSpec) -> bool:
    """Return whether the tar holds the file itself."""
    return info.kind != ""


def layout(source: Source, spec: PrepareSpec, rows: Int64) -> Regions:
    """Return where the samples of a split will lie if every file is stored as it is."""
    plan = tar.layout(source.bytes[rows])
    shard = np.zeros_like(rows)
    for number, samples in enumerate(plan.shards):
        shard[samples] = number
    return Regions(shard, plan.offsets, plan.sizes)


@dataclass(frozen=True)
class TarContent:
    """What the shards of a split hold.

    Attributes:
        sizes: int64 [n], bytes of each image.
        fields: FIELDS [n].
        labels: integers [n].
        samples: int64 [n], the sample ids, ascending; None: the numbers of the rows.
    """

    sizes: Int64
    fields: CodedColumn | Structured
    labels: Integers
    samples: Int64 | None = None

    def describe(self, rows: Integers) -> list[tuple[int, str, int, int]]:
        """Return (sample id, suffix, bytes of the image, label) of some rows."""
        columns = (
            (rows if self.samples is None else self.samples[rows]).tolist(),
            self.fields[rows]["suffix"].tolist(),
            self.sizes[rows].tolist(),
            self.labels[rows].tolist(),
        )
        return list(zip(*columns, strict=True))

    def select(self, rows: Int64) -> TarContent:
        """Return some of the samples of a split."""
        return TarContent(self.sizes[rows], self.fields[rows], self.labels[rows], rows)


@dataclass(frozen=True)
class TarShard:
    """A shard that any machine can write, see `format.Shard`.

    Attributes:
        path: relative to the manifest's folder.
        samples: int64 [n], ascending.
        order: int64 [n], the rows of `samples` as they are written.
        content: of the shard, one row per sample.
    """

    path: str
    samples: Int64
    order: Int64
    content: TarContent

    def write(self, folder: Path, outputs: FormatOutputs) -> Extents:
        """See `format.Shard`.

        Raises:
            ValueError: a file has changed since it was decoded.
        """
        stem = (folder / self.path).with_suffix("")
        stem.parent.mkdir(parents=True, exist_ok=True)
        _write_shard(stem, self.order, functools.partial(_read_image, outputs), self.content)

        found = tar.shard_extents(folder, self.path, int(self.samples[-1]) + 1)
        return dataclasses.replace(found, samples=np.searchsorted(self.samples, found.samples))


def write(shards: SplitShards, outputs: FormatOutputs, rows: Int64, labels: Integers) -> list[str]:
    """Write a split. Arguments and result are those of `write_array.write`.

    Raises:
        ValueError: a file has changed since it was decoded.
    """
    content = _describe(outputs, rows, labels)
    plan = tar.layout(content.sizes)
    complete = [
        complete_file(outputs, rows[samples], plan.offsets[samples]) for samples in plan.shards
    ]

    def read(sample: int) -> bytes:
        return _read_image(outputs, int(rows[sample]))

    folder = shards.folder / "tar"
    files = [path for path in complete if path is not None]
    if len(files) == len(complete):
        written = _finish_shards(files, folder, shards.split, plan, content)
    else:
        written = write_tars(folder, shards.split, read, content)
    written.append(_write_checksums(shards, outputs, rows))
    return [str(path.relative_to(shards.folder)) for path in written]


def write_beside(
    shards: SplitShards, outputs: FormatOutputs, rows: Int64, labels: Integers
) -> tuple[list[str], list[Shard]]:
    """Write a split but for its shards, see `format.Format`."""
    content = _describe(outputs, rows, labels)
    plan = tar.layout(content.sizes)
    stems = _stems(shards.folder / "tar", shards.split, len(plan.shards))
    cut: list[Shard] = []
    for stem, samples in zip(stems, plan.shards, strict=True):
        write_index(stem, samples, plan.offsets[samples], content)
        path = stem.with_suffix(".tar").relative_to(shards.folder)
        ascending = np.sort(samples).astype(np.int64)
        order = np.searchsorted(ascending, samples)
        cut.append(TarShard(str(path), ascending, order, content.select(ascending)))

    written = [stem.with_suffix(".idx") for stem in stems]
    written.append(_write_checksums(shards, outputs, rows))
    return [str(path.relative_to(shards.folder)) for path in written], cut


def _describe(outputs: FormatOutputs, rows: Int64, labels: Integers) -> TarContent:
    return TarContent(outputs.result.bytes[rows], outputs.result.fields.take(rows), labels)


def _read_image(outputs: FormatOutputs, row: int) -> bytes:
    """Return the bytes of an image, which a job has written or which are those of its file.

    Raises:
        ValueError: the file has changed since it was decoded.
    """
    if outputs.result.location[row] == PART:
        return outputs.read(row)
    data = read_file(outputs.originals[row])
    if len(data) != outputs.result.bytes[row]:
        raise ValueError(
            f"{outputs.originals[row]} has changed since it was decoded ({len(data)} bytes instead of "
            f"{outputs.result.bytes[row]}): prepare the dataset again."
        )
    return data


def _write_checksums(shards: SplitShards, outputs: FormatOutputs, rows: Int64) -> Path:
    path = shards.folder / tar.checksums_path(shards.split)
    with path.open("wb") as file:
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = outputs.result.checksums[rows[start : start + _ROWS_AT_ONCE]]
            file.write(some.astype("<u8").tobytes())
    return path


def _finish_shards(
    files: Sequence[Path], folder: Path, split: str, plan: tar.TarLayout, content: TarContent
) -> list[Path]:
    """Turn files in which jobs have written every sample into shards with their indices."""
    stems = _stems(folder, split, len(plan.shards))
    for stem, file, samples in zip(stems, files, plan.shards, strict=True):
        shard = stem.with_suffix(".tar")
        link(file, shard)
        end = int(plan.offsets[samples[-1]] + plan.sizes[samples[-1]])
        # First cut off images that later turned out to be bad, then add the zeros
        # that end an archive.
        os.truncate(shard, end)
        os.truncate(shard, end + tar.END_BYTES)
        write_index(stem, samples, plan.offsets[samples], content)

    return _files(stems)


def write_index(stem: Path, rows: Integers, offsets: Int64, content: TarContent) -> None:
    """Write DALI's index of a shard, whose rows of `content` begin at these offsets: int64 [n]."""
    lines = [
        tar.index_line(*described, offset)
        for described, offset in zip(content.describe(rows), offsets.tolist(), strict=True)
    ]
    stem.with_suffix(".idx").write_text(tar.index_text(lines), encoding="utf-8")


def write_tars(
    folder: Path,
    split: str,
    read: Callable[[int], bytes],
    content: TarContent,
    shard_bytes: int = tar.SHARD_BYTES,
) -> list[Path]:
    """Write the shards of a split and their indices, one thread per CPU; each holds one file in memory.

    Args:
        folder: gets `<split>-<number>.tar` and `.idx`.
        split: its name.
        read: sample id -> bytes of its file.
        content: of the shards.
        shard_bytes: a shard is closed when it would grow past this many bytes.

    Returns:
        All files written.
    """
    plan = tar.layout(content.sizes, shard_bytes)
    stems = _stems(folder, split, len(plan.shards))

    def write_shard(shard: tuple[Path, Int64]) -> None:
        _write_shard(*shard, read, content)

    map_in_threads(write_shard, zip(stems, plan.shards, strict=True))

    return _files(stems)


def _write_shard(
    stem: Path, rows: Integers, read: Callable[[int], bytes], content: TarContent
) -> None:
    """Write a shard and its index.

    Args:
        stem: path of both without the suffix.
        rows: integers [n], of `content`, in the order in which they are written.
        read: row -> bytes of the image.
        content: that the rows are of.
    """
    sizes = []
    with stem.with_suffix(".tar").open("wb") as file:
        described = content.describe(rows)
        for row, (sample, suffix, _, label) in zip(rows.tolist(), described, strict=True):
            sizes.append(file.write(tar.sample_blocks(sample, suffix, read(row), label)))
        file.write(bytes(tar.END_BYTES))
    offsets = np.cumsum(sizes, dtype=np.int64) - sizes
    write_index(stem, rows, offsets, content)


def _stems(folder: Path, split: str, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    return [folder / tar.shard_name(split, number) for number in range(count)]


def _files(stems: Sequence[Path]) -> list[Path]:
    return [stem.with_suffix(suffix) for stem in stems for suffix in (".tar", ".idx")]


def room(source: Source, spec: PrepareSpec) -> int:
    """Return the bytes of the shards, about."""
    return int(source.bytes.sum()) + _OVERHEAD * len(source.files)


TAR = Format(
    open=tar.open_split,
    extents=tar.extents,
    encode=encode,
    write=write,
    room=room,
    layout=layout,
    keeps_file=keeps_file,
    fields=FIELDS,
    reads_originals=True,
    restore=restore,
    write_beside=write_beside,
)
