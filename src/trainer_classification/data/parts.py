"""From the parts of jobs to shards: copying an image's bytes to their place, and reading them back to check."""

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

from trainer_classification.config import cpu_count

if TYPE_CHECKING:
    from trainer_classification.data.jobs import Part

Int64 = npt.NDArray[np.int64]
Uint8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Parts:
    """The parts of all jobs.

    Attributes:
        stems: of the part files, in order.
        size: images of a part; the last may have fewer.
        found: the rows of all parts, in the order of the source, m of them.
        originals: path of each original file, m of them.
    """

    stems: list[Path]
    size: int
    found: Part
    originals: list[str]

    @cached_property
    def places(self) -> Int64:
        """Where in its part an image's bytes start, for each column of `found.bytes`: int64 [m, 3]."""
        sizes = self.found.bytes.copy()
        sizes[~self.found.converted, 2] = 0  # these files are not in the parts
        starts = np.zeros_like(sizes)
        for first in range(0, len(sizes), self.size):
            starts[first + 1 : first + self.size] = np.cumsum(sizes[first : first + self.size], axis=0)[:-1]
        return starts

    def piece(self, row: int, suffix: str, column: int) -> bytes:
        """The bytes of an image in its part."""
        with self.stems[row // self.size].with_suffix(suffix).open("rb") as file:
            file.seek(int(self.places[row, column]))
            return file.read(int(self.found.bytes[row, column]))


def in_threads(function: Callable[[Any], Any], jobs: Any) -> list[Any]:
    """The results of the function, called on all CPUs: for work that lets go of the GIL."""
    with ThreadPoolExecutor(cpu_count(), "gather") as pool:
        return list(pool.map(function, jobs))


def copy(parts: Parts, suffix: str, column: int, rows: Int64, target: Path, places: Int64, expand: bool) -> None:
    """Copy images from the parts into a file that is there already.

    Args:
        parts: to copy from.
        suffix: of the part files.
        column: of `found.bytes`.
        rows: int64 [n], of the parts, ascending.
        target: the file.
        places: int64 [n], where in it each image goes.
        expand: grey images (one byte a pixel) become three.
    """
    numbers = rows // parts.size
    descriptor = os.open(target, os.O_WRONLY)

    def one(number: int) -> None:
        mine = np.flatnonzero(numbers == number)
        content = np.memmap(parts.stems[number].with_suffix(suffix), np.uint8, "r")
        grey = parts.found.grey[rows[mine]] & expand
        starts, sizes = parts.places[rows[mine], column], parts.found.bytes[rows[mine], column]
        for first, last in _runs(starts, sizes, places[mine], grey):
            data = content[starts[first] : starts[last] + sizes[last]]
            _write(descriptor, np.repeat(data, 3) if grey[first] else data, int(places[mine[first]]))

    try:
        in_threads(one, np.unique(numbers).tolist())
    finally:
        os.close(descriptor)


def _runs(starts: Int64, sizes: Int64, places: Int64, grey: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """(first, last) of neighbours that stay neighbours: one write instead of many."""
    apart = (starts[1:] != starts[:-1] + sizes[:-1]) | (places[1:] != places[:-1] + sizes[:-1]) | grey[1:] | grey[:-1]
    edges = np.flatnonzero(apart).tolist()
    yield from zip([0] + [edge + 1 for edge in edges], [*edges, len(starts) - 1], strict=True)


def _write(descriptor: int, data: Uint8, place: int) -> None:
    view = np.ascontiguousarray(data).data.cast("B")
    while len(view):
        written = os.pwrite(descriptor, view, place)
        view, place = view[written:], place + written


def check(parts: Parts, column: int, rows: Int64, stored: Callable[[int], Uint8], what: str) -> None:
    """Compare what a shard's reader finds with what the jobs made.

    Args:
        parts: of the jobs.
        column: of `found.checks`.
        rows: int64 [n], of the parts: the row of each sample.
        stored: sample id -> its bytes, by the reader.
        what: names the shard.

    Raises:
        OSError: an image differs: the disk, the memory or this program is at fault.
    """
    import xxhash

    def one(chunk: range) -> None:
        for sample in chunk:
            row = rows[sample]
            data = stored(sample)
            if data.size == 3 * parts.found.bytes[row, column]:  # a grey image among coloured ones
                data = np.ascontiguousarray(data.reshape(-1, 3)[:, 0])
            if xxhash.xxh3_64_intdigest(data.data) != parts.found.checks[row, column]:
                raise OSError(f"{what} differs from what was written, at {parts.originals[row]}: is the disk sound?")

    in_threads(one, [range(first, min(first + 500, len(rows))) for first in range(0, len(rows), 500)])
