"""Find what an older prepared folder of the same dataset holds of the images, so that they are not decoded again.

Beside a prepared folder lies `.NAME.images.npz` with one row per image: size, times
and hash of the file, what decoding found out, and the checksum of what each format
stores of it. An image is as before

- if its path, size and both times are those of then: the time of the last change of
  its content, and that of the last change of anything about it, which no program can
  set. These are trusted, unless the file had just been changed when they were noted;
- or if a file of the same content was there, whatever its path: it is read for that,
  and its hash of 128 bits decides.
"""

from __future__ import annotations

import json
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import xxhash

from trainer_classification.arrays import Bool, Int32, Int64, Structured
from trainer_classification.console import log
from trainer_classification.data import manifest
from trainer_classification.data.formats import ArrayLayout, SplitShards
from trainer_classification.data.in_use import hold
from trainer_classification.data.manifest import Manifest
from trainer_classification.data.source import Source
from trainer_classification.files import write_atomically
from trainer_classification.preparation import job, partial
from trainer_classification.preparation.coded_column import CodedColumn
from trainer_classification.preparation.content_hash import HASH, HEX, from_hex, to_hex
from trainer_classification.preparation.format import NO_FIELDS, PrepareSpec
from trainer_classification.preparation.formats import FORMATS
from trainer_classification.preparation.job_result import JobResult
from trainer_classification.preparation.kept_images import EXTENT, IMAGE, KeptFormat, KeptImages
from trainer_classification.preparation.workers import Workers

_DECODERS = ("numpy", "pillow", "simplejpeg")
_ROWS_AT_ONCE = 1 << 14
_SETTLED_NS = 2_000_000_000  # the coarsest times of a file system are those of FAT
_DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    MemoryError,  # an array's header has a vast shape
    RuntimeError,  # an archive's entry is encrypted, or of an unknown method
    zipfile.BadZipFile,
)
# IMAGE as a file of notes has it.
_NOTED_IMAGE = np.dtype(
    [(name, HEX if name == "hash" else IMAGE[name]) for name in IMAGE.names or ()]
)
# What tells a file from another: xxh3-64 of its path, its bytes, and the times of
# `FilePlaces`, zeros where they are not trusted. Its width and height are those that
# `inspect` found.
_FILE = np.dtype(
    [
        ("name", np.uint64),
        ("bytes", np.int64),
        ("times", np.int64, (2,)),
        ("size", np.int32, (2,)),
    ]
)


@dataclass(frozen=True)
class ImageNotes:
    """What is noted of the images of a prepared folder: one row per image, in the order of its splits.

    Attributes:
        files: _FILE [m].
        images: IMAGE [m].
        checksums: by the name of the format: uint64 [m], xxh3-64 of what it stores.
        fields: by the name of the format: structured [m], of `Format.fields`.
        times: `hash_times` of the dataset; "" if a file had just been changed.
        maker: what the notes hold for, as `_describe_maker`; empty until they are
            saved.
    """

    files: Structured
    images: Structured
    checksums: dict[str, npt.NDArray[np.uint64]]
    fields: dict[str, Structured]
    times: str = ""
    maker: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class KnownImages:
    """What is known of the images of a dataset before they are decoded.

    Attributes:
        kept: those that an older folder holds; None if it holds none.
        hashes: HASH [n], of each file; b"" where it is not known.
    """

    kept: KeptImages | None
    hashes: npt.NDArray[np.bytes_]


def note_images(
    folder: Path, source: Source, rows: Int64, result: JobResult, before: ImageNotes | None
) -> None:
    """Note the images of a prepared folder beside it; without that, a later prepare decodes all of them.

    Args:
        folder: the prepared folder.
        source: the dataset's table.
        rows: int64 [m], rows of the images in the folder, in the order of its splits.
        result: of the jobs.
        before: notes of the formats that the folder keeps; None if there are none.
    """
    now = time.time_ns()
    count = len(rows)
    columns = {
        "files": _Column(
            _FILE, count, lambda some: _settle(describe_files(source, rows[some]), now)
        ),
        "images": _Column(
            _NOTED_IMAGE, count, lambda some: _note(_describe_images(result, rows[some]))
        ),
    }
    kept = before if before is not None and _are_same(before, result, rows) else None
    for kind in ("checksums", "fields"):
        if kept is not None:
            older: dict[str, Structured] = getattr(kept, kind)
            columns |= {f"{kind}.{name}": _hold(values) for name, values in older.items()}
        for name, made in result.formats.items():
            values: CodedColumn | npt.NDArray[Any] = getattr(made, kind)
            columns[f"{kind}.{name}"] = _Column(values.dtype, count, _take(values, rows))

    _write_notes(folder, columns, _hash_settled_times(source, now), _describe_maker(folder))


def _describe_images(result: JobResult, rows: Int64) -> Structured:
    """Return IMAGE [m], what the jobs found out about some images."""
    images = np.zeros(len(rows), IMAGE)
    images["hash"] = result.hashes[rows]
    images["size"] = result.sizes[rows]
    images["gray"] = result.gray[rows]
    images["content"] = result.contents[rows]
    images["peak"] = result.peaks[rows]
    images["has_more"] = result.has_more[rows]
    return images


def _note(images: Structured) -> Structured:
    """Return _NOTED_IMAGE [m] of IMAGE [m]."""
    noted = images.astype(_NOTED_IMAGE)
    noted["hash"] = to_hex(images["hash"])
    return noted


def _read_noted(noted: Structured) -> Structured:
    """Return IMAGE [m] of _NOTED_IMAGE [m].

    Raises:
        ValueError: one has no hash.
    """
    images = noted.astype(IMAGE)
    images["hash"] = from_hex(noted["hash"])
    return images


def _are_same(before: ImageNotes, result: JobResult, rows: Int64) -> bool:
    """Return whether notes are of just these images, in this order."""
    return np.array_equal(before.images["hash"], result.hashes[rows])


def note_times(notes: ImageNotes, source: Source) -> ImageNotes:
    """Return the notes with the times that files of the same content have now."""
    now = time.time_ns()
    files = describe_files(source)
    rows = find_rows(files["name"], notes.files["name"])
    return replace(notes, files=_settle(files[rows], now), times=_hash_settled_times(source, now))


def _settle(files: Structured, now: int) -> Structured:
    """Set the times of files that had just been changed to zero, in place."""
    # A time to come is that of another clock.
    is_settled = abs(files["times"].max(1) - now) > _SETTLED_NS
    files["times"] *= is_settled[:, None]
    return files


def _hash_settled_times(source: Source, now: int) -> str:
    """Return `ImageNotes.times`."""
    is_settled = abs(source.times[:, 0] - now) > _SETTLED_NS
    return hash_times(source) if is_settled.all() else ""


def hash_times(source: Source) -> str:
    """Return a hash of the times at which the content of the files was changed, in the order of the dataset."""
    return xxhash.xxh3_128_hexdigest(source.times[:, 0].tobytes())


def save_notes(folder: Path, notes: ImageNotes) -> None:
    """Write the notes of a prepared folder."""
    columns = {"files": _hold(notes.files), "images": _hold(_note(notes.images))}
    columns |= {f"checksums.{name}": _hold(values) for name, values in notes.checksums.items()}
    columns |= {f"fields.{name}": _hold(values) for name, values in notes.fields.items()}
    _write_notes(folder, columns, notes.times, notes.maker or _describe_maker(folder))


@dataclass(frozen=True)
class _Column:
    """A column of the notes, of which only some rows exist at a time.

    Attributes:
        dtype: of its rows.
        count: of its rows.
        read: returns some of the rows.
    """

    dtype: np.dtype[Any]
    count: int
    read: Callable[[slice], npt.NDArray[Any]]


def _hold(values: npt.NDArray[Any]) -> _Column:
    """Return a column of rows that exist."""
    return _Column(values.dtype, len(values), values.__getitem__)


def _take(
    values: CodedColumn | npt.NDArray[Any], rows: Int64
) -> Callable[[slice], npt.NDArray[Any]]:
    def read(some: slice) -> npt.NDArray[Any]:
        taken: npt.NDArray[Any] = values[rows[some]]
        return taken

    return read


def _write_notes(
    folder: Path, columns: Mapping[str, _Column], times: str, maker: dict[str, Any]
) -> None:
    """Write a file of notes; nothing happens where that cannot be written."""
    written = {name: column for name, column in columns.items() if column.dtype != NO_FIELDS}
    head = np.frombuffer(json.dumps(maker).encode(), np.uint8)
    seen = np.frombuffer(times.encode(), np.uint8)
    written |= {"head": _hold(head), "seen": _hold(seen)}
    with suppress(OSError):
        write_atomically(partial.notes_path(folder), lambda file: _write_columns(file, written))


def _write_columns(file: BinaryIO, columns: Mapping[str, _Column]) -> None:
    """Write what `np.savez` would write of the columns, some rows at a time."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, column in columns.items():
            head = {
                "descr": np.lib.format.dtype_to_descr(column.dtype),
                "fortran_order": False,
                "shape": (column.count,),
            }
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array_header_1_0(entry, head)
                for start in range(0, column.count, _ROWS_AT_ONCE):
                    entry.write(column.read(slice(start, start + _ROWS_AT_ONCE)).tobytes())


def _describe_maker(folder: Path) -> dict[str, Any]:
    """Return what the notes hold for: the content of the folder, and what decodes images."""
    return {
        "manifest": _hash_manifest(folder),
        "job": job.VERSION,
        "decoders": [version(name) for name in _DECODERS],
    }


def _hash_manifest(folder: Path) -> str:
    return xxhash.xxh3_128_hexdigest((folder / manifest.FILE_NAME).read_bytes())


def read_notes(folder: Path, any_decoders: bool = False) -> ImageNotes | None:
    """Read the notes of a prepared folder; None if there are none for what it holds now.

    Args:
        folder: the prepared folder.
        any_decoders: accept notes of images that other versions have decoded.
    """
    with suppress(*_DAMAGE), partial.notes_path(folder).open("rb") as file:
        content = np.load(file, allow_pickle=False)
        maker = json.loads(content["head"].tobytes())
        now = _describe_maker(folder)
        if maker == now or (any_decoders and maker["manifest"] == now["manifest"]):
            notes = _parse_notes(content)
            return (
                None if notes is None else replace(notes, times=_read_times(content), maker=maker)
            )
    return None


def read_times(folder: Path) -> str | None:
    """Read `ImageNotes.times` alone; None if there are no notes for what the folder holds now."""
    with suppress(*_DAMAGE), partial.notes_path(folder).open("rb") as file:
        content = np.load(file, allow_pickle=False)
        maker = json.loads(content["head"].tobytes())
        if maker["manifest"] == _hash_manifest(folder):
            return _read_times(content)
    return None


def _read_times(content: Mapping[str, npt.NDArray[Any]]) -> str:
    return content["seen"].tobytes().decode() if "seen" in content else ""


def _parse_notes(content: Mapping[str, npt.NDArray[Any]]) -> ImageNotes | None:
    """Return the columns of a file of notes; None if they are empty, of several lengths, or of other kinds."""
    count = len(content["images"])
    names = [name for name in FORMATS if f"checksums.{name}" in content]
    fields = {name: np.zeros(count, FORMATS[name].fields) for name in names}
    for name, values in fields.items():
        if values.dtype.names:
            fields[name] = content[f"fields.{name}"]
    checksums = {name: content[f"checksums.{name}"] for name in names}
    if content["images"].dtype != _NOTED_IMAGE:
        return None
    images = _read_noted(content["images"])
    notes = ImageNotes(content["files"], images, checksums, fields)

    expected: list[tuple[npt.NDArray[Any], np.dtype[Any]]]
    expected = [(notes.files, _FILE), (notes.images, IMAGE)]
    expected += [(values, np.dtype(np.uint64)) for values in checksums.values()]
    expected += [(values, FORMATS[name].fields) for name, values in fields.items()]
    is_known = all(values.dtype == dtype and values.shape == (count,) for values, dtype in expected)
    return notes if is_known and count else None


def recall_sizes(parent: Path, source: Source) -> Int32:
    """Return width and height of the images whose files are as they were: int32 [n, 2]; 0 for the others.

    Args:
        parent: folder of the prepared datasets.
        source: the dataset's table.
    """
    sizes = np.zeros((len(source.files), 2), np.int32)
    for folder in _list_newest_first(parent, source):
        notes = read_notes(folder)
        if notes is not None:
            rows = _match_files(notes.files, describe_files(source))
            sizes[rows >= 0] = notes.files["size"][rows[rows >= 0]]
            break
    return sizes


@contextmanager
def find_known(
    parent: Path, source: Source, spec: PrepareSpec, measured: Bool, workers: Workers
) -> Iterator[KnownImages]:
    """Find the images that an older prepared folder holds, and keep that folder from being deleted meanwhile.

    Files that are not trusted to be as before are read for their hashes.

    Args:
        parent: folder of the prepared datasets.
        source: the dataset's table.
        spec: what is made of the images.
        measured: bool [n], the images that the statistics are taken of.
        workers: read the files.
    """
    with ExitStack() as stack:
        for folder in _list_newest_first(parent, source):
            fitting = _hold_fitting(folder, spec, stack)
            if fitting is not None:
                can_measure = any(FORMATS[name].array_pixels for name in spec.formats)
                yield _match(folder, *fitting, source, can_measure, measured, workers)
                return
        yield know_nothing(source)


def know_nothing(source: Source) -> KnownImages:
    """Return that all images have to be decoded."""
    return KnownImages(None, np.zeros(len(source.files), HASH))


def _hold_fitting(
    folder: Path, spec: PrepareSpec, stack: ExitStack
) -> tuple[ImageNotes, dict[str, KeptFormat]] | None:
    """Return the notes of a folder, and where its images are; None if its images are not those of `spec`."""
    with suppress(*_DAMAGE), ExitStack() as attempt:
        attempt.enter_context(hold(folder))
        found = manifest.read(folder)
        notes = read_notes(folder) if _is_fitting(found, spec) else None
        if notes is not None and notes.checksums.keys() >= spec.formats.keys():
            places = {name: _locate(folder, found, notes, name) for name in spec.formats}
            stack.push(attempt.pop_all())
            return notes, places
    return None


def _is_fitting(found: Manifest, spec: PrepareSpec) -> bool:
    """Return whether an image in a prepared folder has the bytes that it would have now."""
    layout = ArrayLayout(found.image_size, found.resized, found.channels)
    if not any(FORMATS[name].has_array_channels for name in spec.formats):
        layout = replace(layout, channels=spec.layout.channels)
    return (
        (layout, found.gray_shift) == (spec.layout, spec.gray_shift)
        and bool(spec.formats)
        and all(found.formats.get(name) == options for name, options in spec.formats.items())
    )


def _locate(folder: Path, found: Manifest, notes: ImageNotes, name: str) -> KeptFormat:
    """Return where the images of a prepared folder lie in one format.

    Raises:
        ValueError: the folder is damaged.
    """
    layout = ArrayLayout(found.image_size, found.resized, found.channels)
    extents = np.zeros(len(notes.images), EXTENT)
    extents["checksum"] = notes.checksums[name]
    files: list[str] = []
    start = 0
    for split, info in found.splits.items():
        for shard in FORMATS[name].extents(SplitShards(folder, split, info.count, layout)):
            rows = start + shard.samples
            extents["file"][rows] = len(files)
            extents["offset"][rows] = shard.offsets
            extents["bytes"][rows] = shard.sizes
            files.append(str((folder / shard.path).absolute()))
        start += info.count
    if start != len(extents):
        raise ValueError(f"{folder} has {start} images, but notes of {len(extents)}.")

    return KeptFormat(files, extents, notes.fields[name])


def _match(
    folder: Path,
    notes: ImageNotes,
    places: dict[str, KeptFormat],
    source: Source,
    can_measure: bool,
    measured: Bool,
    workers: Workers,
) -> KnownImages:
    """Find the images of a dataset in an older folder, and say how many are left to decode."""
    rows = _match_files(notes.files, describe_files(source))
    hashes = np.where(rows >= 0, notes.images["hash"][rows], b"")
    unknown = np.flatnonzero(rows < 0)
    hashes[unknown] = hash_files(source.paths.take(unknown), workers)
    rows[unknown] = find_rows(notes.images["hash"], hashes[unknown])

    kept = int((rows >= 0).sum())
    for_statistics = 0
    if not can_measure:
        for_statistics = int((rows[measured] >= 0).sum())
        rows[measured] = -1
    if kept:
        more = f", and {for_statistics:,} for mean and standard deviation" if for_statistics else ""
        log(
            f"{kept:,} of {len(rows):,} images are as before, in {folder}; "
            f"decoding {len(rows) - kept:,}{more}."
        )

    return KnownImages(KeptImages(rows, notes.images, places), hashes)


def hash_files(paths: Sequence[str], workers: Workers) -> npt.NDArray[np.bytes_]:
    """Return the hash of each file: HASH [n]; b"" if it cannot be read."""
    size = job.IMAGES_PER_JOB
    pieces = [paths[start : start + size] for start in range(0, len(paths), size)]
    hashes = workers.run("reading", job.hash_files, pieces) if pieces else []
    return np.concatenate([np.zeros(0, HASH), *hashes])


def _list_newest_first(parent: Path, source: Source) -> list[Path]:
    """Return the prepared folders of a dataset that have notes, the one prepared last first."""
    times = {}
    for folder in partial.list_folders(parent, source):
        with suppress(OSError):
            times[folder] = partial.notes_path(folder).stat().st_mtime_ns
    return sorted(times, key=times.__getitem__, reverse=True)


def describe_files(source: Source, rows: Int64 | slice = slice(None)) -> Structured:
    """Return _FILE of the files of a dataset, or of some of them."""
    some = source.files[rows] if isinstance(rows, slice) else source.files.take(rows)
    files = np.zeros(len(some), _FILE)
    names = (xxhash.xxh3_64_intdigest(os.fsencode(name)) for name in some)
    files["name"] = np.fromiter(names, np.uint64, len(files))
    files["bytes"] = source.bytes[rows]
    files["times"] = source.times[rows]
    files["size"] = source.sizes[rows]
    return files


def _match_files(before: Structured, now: Structured) -> Int64:
    """Return the row in `before` of each file that is as it was: int64 [n]; -1 for the others."""
    rows = find_rows(before["name"], now["name"])
    is_same = (before["bytes"][rows] == now["bytes"]) & (before["times"][rows] > 0).all(1)
    is_same &= (before["times"][rows] == now["times"]).all(1)
    return np.where(is_same, rows, -1)


def find_rows(before: npt.NDArray[Any], now: npt.NDArray[Any]) -> Int64:
    """Return the row in `before` that equals each value: int64 [n]; -1: none does."""
    order = np.argsort(before)
    rows = order[np.minimum(np.searchsorted(before, now, sorter=order), len(order) - 1)]
    return np.where(before[rows] == now, rows, -1)
