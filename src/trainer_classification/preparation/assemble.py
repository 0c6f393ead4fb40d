"""From what jobs wrote to shards: bringing an image's bytes to their place, and reading them back to check."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainer_classification.data.manifest import FileInfo, hash_rest
from trainer_classification.environment import cpu_count
from trainer_classification.preparation.preallocated import FORMATS, Extents, PreallocatedRegions, write_at

if TYPE_CHECKING:
    from trainer_classification.preparation.job import JobResult

Int64 = npt.NDArray[np.int64]

_BLOCK = 1 << 20  # bytes, about, that are read at once


@dataclass(frozen=True)
class JobOutputs:
    """What the jobs have written.

    Attributes:
        stems: of the part files, in order.
        size: images of a part; the last may have fewer.
        found: the rows of all parts, in the order of the source, m of them.
        originals: path of each original file, m of them.
        slots: of the formats that have some, m slots each.
    """

    stems: list[Path]
    size: int
    found: JobResult
    originals: list[str]
    slots: dict[str, PreallocatedRegions]

    @cached_property
    def _starts(self) -> Int64:
        """Where in its part an image's bytes start: int64 [m, 3]."""
        sizes = np.where(self.found.placed, 0, self.found.bytes)
        sizes[~self.found.converted, 2] = 0  # these files are not in the parts
        starts = np.zeros_like(sizes)
        for first in range(0, len(sizes), self.size):
            starts[first + 1 : first + self.size] = np.cumsum(sizes[first : first + self.size], axis=0)[:-1]
        return starts

    def pieces(self, name: str, rows: Int64) -> tuple[Int64, Int64]:
        """Where the images of some rows are in a format: (number of the file, place in it), int64 [n] each."""
        column = FORMATS.index(name)
        number, place = rows // self.size, self._starts[rows, column]
        if name in self.slots:
            placed, slots = self.found.placed[rows, column], self.slots[name]
            number = np.where(placed, len(self.stems) + slots.file[rows], number)
            place = np.where(placed, slots.places[rows], place)
        return number, place

    def file(self, name: str, number: int) -> Path:
        """The file of that number."""
        if number >= len(self.stems):
            return self.slots[name].files[number - len(self.stems)]
        return self.stems[number].with_suffix(f".{name}")

    def piece(self, name: str, row: int) -> bytes:
        """The bytes of an image."""
        (number,), (place,) = self.pieces(name, np.array([row]))
        with self.file(name, int(number)).open("rb") as file:
            file.seek(int(place))
            return file.read(int(self.found.bytes[row, FORMATS.index(name)]))


def in_threads(function: Callable[[Any], Any], jobs: Any) -> list[Any]:
    """The results of the function, called on all CPUs: for work that lets go of the GIL."""
    with ThreadPoolExecutor(cpu_count(), "gather") as pool:
        return list(pool.map(function, jobs))


def gather(parts: JobOutputs, name: str, rows: Int64, target: Path, places: Int64) -> None:
    """Bring images to their places in a shard: it is only named where jobs have written them to these.

    Args:
        parts: where they are.
        name: of the format.
        rows: int64 [n], of the parts, ascending.
        target: the file, which is made.
        places: int64 [n], where in it each image goes.
    """
    target.parent.mkdir(exist_ok=True)
    if there := in_place(parts, name, rows, places):
        link(there, target)
        return
    numbers, starts = parts.pieces(name, rows)
    sizes = parts.found.bytes[rows, FORMATS.index(name)]
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)

    def one(number: int) -> None:
        mine = np.flatnonzero(numbers == number)
        content = np.memmap(parts.file(name, number), np.uint8, "r")
        for first, last in _runs(starts[mine], sizes[mine], places[mine]):
            start, end = starts[mine[first]], starts[mine[last]] + sizes[mine[last]]
            write_at(descriptor, [content[start:end].data], int(places[mine[first]]))

    try:
        in_threads(one, np.unique(numbers).tolist())
    finally:
        os.close(descriptor)


def in_place(parts: JobOutputs, name: str, rows: Int64, places: Int64) -> Path | None:
    """The file in which jobs have written these images to just these places, if there is one."""
    numbers, starts = parts.pieces(name, rows)
    one = numbers[0] >= len(parts.stems) and (numbers == numbers[0]).all()
    return parts.file(name, int(numbers[0])) if one and (starts == places).all() else None


def link(file: Path, target: Path) -> None:
    """Give a file of the jobs a second name, not another: it is there still if this run is interrupted."""
    target.unlink(missing_ok=True)
    os.link(file, target)


def _runs(starts: Int64, sizes: Int64, places: Int64) -> Iterator[tuple[int, int]]:
    """(first, last) of neighbours that stay neighbours: one write instead of many."""
    apart = (starts[1:] != starts[:-1] + sizes[:-1]) | (places[1:] != places[:-1] + sizes[:-1])
    edges = np.flatnonzero(apart).tolist()
    yield from zip([0] + [edge + 1 for edge in edges], [*edges, len(starts) - 1], strict=True)


def read_back(folder: Path, name: str, extents: Extents, rows: Int64, parts: JobOutputs) -> FileInfo:
    """Size and checksum of a shard, of which each image is compared with what the jobs made: in one pass.

    Args:
        folder: that the shard's path is relative to.
        name: of the format.
        extents: of the shard.
        rows: int64 [n], of the parts: the row of each sample of the split.
        parts: of the jobs.

    Raises:
        OSError: an image differs: the disk, the memory or this program is at fault.
    """
    import xxhash

    order = np.argsort(extents.places)
    rows, starts = rows[extents.samples[order]], extents.places[order]
    ends, checks = starts + extents.sizes[order], parts.found.checks[rows, FORMATS.index(name)]
    state, at = xxhash.xxh3_128(), 0
    with (folder / extents.path).open("rb") as file:
        for some in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(ends // _BLOCK)) + 1):
            block = memoryview(file.read(int(ends[some[-1]]) - at))
            state.update(block)
            for number in some.tolist():
                piece = block[starts[number] - at : ends[number] - at]
                if xxhash.xxh3_64_intdigest(piece) != checks[number]:
                    original = parts.originals[rows[number]]
                    raise OSError(f"{extents.path} differs from what was written, at {original}: is the disk sound?")
            at += len(block)
        at += hash_rest(file, state)
    return FileInfo(at, state.hexdigest())
