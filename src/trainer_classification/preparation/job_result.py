"""What a job found out about its images, and how that is saved beside the bytes it wrote."""

from __future__ import annotations

import dataclasses
import pickle
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer_classification.arrays import Int64
from trainer_classification.preparation.coded_column import CodedColumn
from trainer_classification.preparation.content_hash import HASH
from trainer_classification.preparation.mirrored_classes import SIDE

VERSION = 1  # of the part files: those of another version are not continued
# Where the bytes of an image are, in one format.
NOWHERE = 0  # the image is bad, or the format does not want it
PART = 1  # in the part file of the job
REGION = 2  # in its preallocated region of the shard
ORIGINAL = 3  # only in the original file, which the format reads again

_LEFT_OUT = ("sums", "squares", "thumbnails", "formats")  # columns that `collect` does not copy so


@dataclass(frozen=True)
class FormatResult:
    """The images of a job in one format, one row per image; bad images have zeros.

    Attributes:
        bytes: int64 [n], length of each image.
        checksums: uint64 [n], xxh3-64 of these bytes.
        location: uint8 [n], NOWHERE, PART, REGION or ORIGINAL.
        fields: [n], what the format notes about an image; its dtype is
            `Format.fields`.
    """

    bytes: npt.NDArray[np.int64]
    checksums: npt.NDArray[np.uint64]
    location: npt.NDArray[np.uint8]
    fields: CodedColumn

    @classmethod
    def empty(cls, count: int, dtype: np.dtype[np.void]) -> FormatResult:
        """Return the result of a job that has not begun."""
        return cls(
            np.zeros(count, np.int64),
            np.zeros(count, np.uint64),
            np.zeros(count, np.uint8),
            CodedColumn(count, dtype),
        )

    def select(self, rows: Int64) -> FormatResult:
        """Return some of the images."""
        return FormatResult(
            self.bytes[rows], self.checksums[rows], self.location[rows], self.fields.take(rows)
        )


@dataclass(frozen=True)
class JobResult:
    """What a job found, one row per image unless noted; bad images have a reason and zeros.

    Attributes:
        hashes: HASH [n], of the files; b"" for one that could not be read.
        reasons: str [n], why an image is bad; "" for good images.
        gray: bool [n].
        sizes: int32 [n, 2], width and height as decoded, upright.
        contents: bytes [n], name of the format that the file holds.
        peaks: int64 [n], largest value of a gray image of 16 or 32 bits; 0 for
            others.
        has_more: bool [n], files of which only the first page or frame is used.
        sums, squares: int64 [n, 3], of the pixel values in the array, per
            channel; 0 for images that are not measured. `collect` leaves them to
            `sum_pixels`.
        thumbnails: uint8 [m, 16, 16], small gray copies of the m images that are
            compared.
        formats: by the name of the format.
    """

    hashes: npt.NDArray[np.bytes_]
    reasons: CodedColumn
    gray: npt.NDArray[np.bool_]
    sizes: npt.NDArray[np.int32]
    contents: CodedColumn
    peaks: npt.NDArray[np.int64]
    has_more: npt.NDArray[np.bool_]
    sums: npt.NDArray[np.int64]
    squares: npt.NDArray[np.int64]
    thumbnails: npt.NDArray[np.uint8]
    formats: dict[str, FormatResult]

    @classmethod
    def empty(cls, count: int, compared: int) -> JobResult:
        """Return the result of a job that has not begun.

        Args:
            count: images n.
            compared: images m of which thumbnails are kept.
        """
        return cls(
            hashes=np.zeros(count, HASH),
            reasons=CodedColumn(count, object, ""),
            gray=np.zeros(count, bool),
            sizes=np.zeros((count, 2), np.int32),
            contents=CodedColumn(count, "S12"),
            peaks=np.zeros(count, np.int64),
            has_more=np.zeros(count, bool),
            sums=np.zeros((count, 3), np.int64),
            squares=np.zeros((count, 3), np.int64),
            thumbnails=np.zeros((compared, SIDE, SIDE), np.uint8),
            formats={},
        )

    def good_rows(self) -> Int64:
        """Return the rows of the good images, ascending: int64 [m]."""
        return np.flatnonzero(self.reasons.equals(""))

    def save(self, stem: Path) -> None:
        """Write `<stem>.part`, which marks the job as done.

        The file is not flushed to the disk: a killed process loses nothing that
        it wrote, and after a power failure the shards are compared with their
        checksums.
        """
        temporary = stem.with_suffix(f".{uuid.uuid4().hex}")  # where the job runs twice
        temporary.write_bytes(pickle.dumps(self))
        temporary.replace(stem.with_suffix(".part"))


def is_done(stem: Path) -> bool:
    """Return whether the job has written its result."""
    return stem.with_suffix(".part").is_file()


def load(stem: Path) -> JobResult:
    """Read the result of a job."""
    result: JobResult = pickle.loads(stem.with_suffix(".part").read_bytes())
    return result


def sum_pixels(stems: Sequence[Path], starts: Int64, rows: Int64) -> tuple[Int64, Int64]:
    """Return the sums of `JobResult.sums` and `squares` over some images, int64 [3] each.

    A gray image has only its first channel, which counts for all three.

    Args:
        stems: of the part files.
        starts: int64, the first row of each.
        rows: int64 [m], ascending, of the images.
    """
    sums = np.zeros(3, np.int64)
    squares = np.zeros(3, np.int64)
    edges = np.searchsorted(rows, [*starts.tolist(), np.iinfo(np.int64).max])
    for number, stem in enumerate(stems):
        mine = rows[edges[number] : edges[number + 1]] - starts[number]
        if len(mine):
            result = load(stem)
            gray = result.gray[mine, None]
            for total, values in ((sums, result.sums[mine]), (squares, result.squares[mine])):
                total += np.where(gray, values[:, :1], values).sum(0)

    return sums, squares


def collect(stems: Sequence[Path], count: int) -> JobResult:
    """Read the results of all jobs, and return their rows in order, with one job in memory at a time.

    Args:
        stems: of the part files, one or more.
        count: images of all jobs.
    """
    thumbnails = []
    whole: JobResult | None = None
    start = 0
    for stem in stems:
        result = load(stem)
        thumbnails.append(result.thumbnails)
        if whole is None:
            whole = _allocate(result, count)
        end = start + len(result.reasons)
        for column, values in zip(_columns(whole), _columns(result), strict=True):
            if isinstance(column, CodedColumn):
                column.put(start, values)
                continue
            # The new columns are zeros, for which no memory is taken before they are
            # written.
            is_zero = values.dtype.kind in "biu" and not values.any()
            if not is_zero:
                column[start:end] = values
        start = end

    assert whole is not None
    assert start == count
    return dataclasses.replace(whole, thumbnails=np.concatenate(thumbnails))


def _columns(result: JobResult) -> list[Any]:
    """Return the columns that have one row per image, those of the formats behind the others."""
    columns = [
        getattr(result, field.name) for field in fields(JobResult) if field.name not in _LEFT_OUT
    ]
    for name in sorted(result.formats):
        rows = result.formats[name]
        columns += [getattr(rows, field.name) for field in fields(FormatResult)]
    return columns


def _allocate(result: JobResult, count: int) -> JobResult:
    """Return a result of `count` images, whose columns are those of another result."""

    def allocate(values: Any) -> Any:
        if isinstance(values, CodedColumn):
            return values.of_length(count)
        return np.zeros((count, *values.shape[1:]), values.dtype)

    columns = {
        field.name: allocate(getattr(result, field.name))
        for field in fields(JobResult)
        if field.name not in _LEFT_OUT
    }
    columns |= {name: getattr(result, name)[:0] for name in ("sums", "squares", "thumbnails")}
    formats = {
        name: FormatResult(*(allocate(getattr(rows, field.name)) for field in fields(rows)))
        for name, rows in result.formats.items()
    }
    return JobResult(**columns, formats=formats)
