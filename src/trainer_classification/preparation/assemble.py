"""Assemble shards from what the jobs wrote, and read them back to check them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trainer_classification.arrays import Int64
from trainer_classification.data.file_names import FileNames
from trainer_classification.data.formats import Extents, group_rows
from trainer_classification.data.manifest import FileInfo
from trainer_classification.environment import cpu_count
from trainer_classification.files import hash_rest
from trainer_classification.preparation.job_result import PART, REGION, FormatResult
from trainer_classification.preparation.preallocated import PreallocatedRegions, write_at

_ROWS_AT_ONCE = 1 << 16
_BLOCK = 1 << 20  # bytes that are read at once, about


@dataclass(frozen=True)
class FormatOutputs:
    """What the jobs have written in one format.

    Attributes:
        name: of the format.
        stems: of the part files, in order.
        starts: int64, the first row of each part, ascending from 0.
        result: of all jobs, one row per image in the order of the source, m of
            them.
        originals: path of each original file, m of them.
        regions: m preallocated regions; None if there are none.
    """

    name: str
    stems: list[Path]
    starts: Int64
    result: FormatResult
    originals: FileNames
    regions: PreallocatedRegions | None

    @cached_property
    def _part_offsets(self) -> Int64:
        """Where the bytes of each image start in its part file: int64 [m]."""
        count = len(self.result.bytes)
        offsets = np.zeros(count, np.int64)  # no memory is taken before it is written
        ends = [*self.starts[1:].tolist(), count]
        for first, end in zip(self.starts.tolist(), ends, strict=True):
            is_there = self.result.location[first:end] == PART
            if is_there.any():
                sizes = np.where(is_there, self.result.bytes[first:end], 0)
                offsets[first + 1 : end] = np.cumsum(sizes)[:-1]
        return offsets

    def locate(self, rows: Int64) -> tuple[Int64, Int64]:
        """Return where the images of some rows are: (number of the file, offset in it), int64 [n] each."""
        number = np.searchsorted(self.starts, rows, "right") - 1
        offset = self._part_offsets[rows]
        if self.regions is not None:
            in_region = self.result.location[rows] == REGION
            number = np.where(in_region, len(self.stems) + self.regions.file[rows], number)
            offset = np.where(in_region, self.regions.offsets[rows], offset)
        return number, offset

    def file(self, number: int) -> Path:
        """Return the file of that number: the parts come first, then the preallocated files."""
        if number < len(self.stems):
            return self.stems[number].with_suffix(f".{self.name}")
        assert self.regions is not None
        return Path(self.regions.files[number - len(self.stems)])

    def read(self, row: int) -> bytes:
        """Return the bytes of an image in a part file."""
        (number,), (offset,) = self.locate(np.array([row]))
        with self.file(int(number)).open("rb") as file:
            file.seek(int(offset))
            return file.read(int(self.result.bytes[row]))


def map_in_threads(function: Callable[[Any], Any], inputs: Iterable[Any]) -> list[Any]:
    """Return the results of a function that releases the GIL, called in one thread per CPU."""
    with ThreadPoolExecutor(cpu_count(), "assemble") as pool:
        return list(pool.map(function, inputs))


def gather(outputs: FormatOutputs, rows: Int64, target: Path, offsets: Int64) -> None:
    """Make a shard of images.

    If jobs have written all of them where they belong, nothing is copied.

    Args:
        outputs: of the jobs.
        rows: int64 [n], of the images, ascending.
        target: the shard.
        offsets: int64 [n], where in it each image goes.
    """
    target.parent.mkdir(exist_ok=True)
    complete = complete_file(outputs, rows, offsets)
    if complete is not None:
        link(complete, target)
        return

    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            some = slice(first, first + _ROWS_AT_ONCE)
            _copy_images(outputs, rows[some], descriptor, offsets[some])
    finally:
        os.close(descriptor)


def _copy_images(outputs: FormatOutputs, rows: Int64, descriptor: int, offsets: Int64) -> None:
    """Copy images to offsets of an open file, several parts at a time."""
    numbers, starts = outputs.locate(rows)
    sizes = outputs.result.bytes[rows]

    def copy_from(file: tuple[int, Int64]) -> None:
        number, mine = file
        content = np.memmap(outputs.file(number), np.uint8, "r")
        for first, last in _adjacent(starts[mine], sizes[mine], offsets[mine]):
            start = starts[mine[first]]
            end = starts[mine[last]] + sizes[mine[last]]
            write_at(descriptor, [content[start:end].data], int(offsets[mine[first]]))

    map_in_threads(copy_from, group_rows(numbers))


def complete_file(outputs: FormatOutputs, rows: Int64, offsets: Int64) -> Path | None:
    """Return the file in which jobs have written these images at just these offsets; None if there is none."""
    if outputs.regions is None:
        return None
    numbers, starts = outputs.locate(rows)
    in_one_region_file = numbers[0] >= len(outputs.stems) and (numbers == numbers[0]).all()
    if in_one_region_file and (starts == offsets).all():
        return outputs.file(int(numbers[0]))
    return None


def link(file: Path, target: Path) -> None:
    """Give a file a second name, so that it is still there under the first if this run is interrupted."""
    target.unlink(missing_ok=True)
    os.link(file, target)


def _adjacent(starts: Int64, sizes: Int64, offsets: Int64) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of images that are adjacent before and after the copy: one write serves all of them."""
    apart = (starts[1:] != starts[:-1] + sizes[:-1]) | (offsets[1:] != offsets[:-1] + sizes[:-1])
    last = [*np.flatnonzero(apart).tolist(), len(starts) - 1]
    first = [0] + [edge + 1 for edge in last[:-1]]
    yield from zip(first, last, strict=True)


def _divide_into_blocks(extents: Extents) -> Iterator[slice]:
    """Yield the images of a shard that are read at once, in order."""
    for start in range(0, len(extents.offsets), _ROWS_AT_ONCE):
        some = slice(start, start + _ROWS_AT_ONCE)
        ends = extents.offsets[some] + extents.sizes[some]
        edges = start + 1 + np.flatnonzero(np.diff(ends // _BLOCK))
        yield from map(slice, [start, *edges.tolist()], [*edges.tolist(), start + len(ends)])


def read_back(folder: Path, extents: Extents, rows: Int64, outputs: FormatOutputs) -> FileInfo:
    """Return size and checksum of a shard, and compare each of its images with what the jobs made, in one pass.

    Args:
        folder: that the shard's path is relative to.
        extents: of the shard.
        rows: int64 [n], the row in `outputs` of each sample of the split.
        outputs: of the jobs.

    Raises:
        OSError: an image differs: the disk, the memory or this program is at
            fault.
    """
    import xxhash

    state = xxhash.xxh3_128()
    position = 0
    with (folder / extents.path).open("rb") as file:
        for images in _divide_into_blocks(extents):
            starts = extents.offsets[images]
            ends = starts + extents.sizes[images]
            block = memoryview(file.read(int(ends[-1]) - position))
            state.update(block)
            mine = rows[extents.samples[images]]
            for row, start, end, expected in zip(
                mine.tolist(),
                (starts - position).tolist(),
                (ends - position).tolist(),
                outputs.result.checksums[mine].tolist(),
                strict=True,
            ):
                if xxhash.xxh3_64_intdigest(block[start:end]) != expected:
                    raise OSError(
                        f"{extents.path} differs from what was written, at {outputs.originals[row]}: check the disk, "
                        f"then prepare the dataset again."
                    )
            position += len(block)
        position += hash_rest(file, state)

    return FileInfo(position, state.hexdigest())
