"""A job of `prepare`: some hundred images, each read and decoded once, to part files for every wanted format.

A part is a pure function of its images and options, so the shards do not depend on the number of workers, and a killed
run goes on with the parts that are there. Imports little: every worker process pays for it.

    <stem>.array    pixels of the good images that have no slot (slots.py), as the array will hold them
    <stem>.beton    payloads of those that have none
    <stem>.tar      the files that cannot go into a tar as they are, converted to PNG
    <stem>.part     the Part; written last, it makes the part whole
"""

from __future__ import annotations

import gc
import io
import os
import pickle
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import xxhash

from trainer_classification.data import beton, tar
from trainer_classification.data.decode import (
    BadImageError,
    DecodedImage,
    ImageInfo,
    Uint8,
    YCbCrImage,
    decode_for_resize,
    decode_with_info,
    is_sound,
    padded,
    plain_jpeg,
)
from trainer_classification.files import read_file
from trainer_classification.preparation.preallocated import FORMATS, PreallocatedRegions, RegionWriter

SIZE = 500  # images of a part
VERSION = 3  # of what a part holds and how images are decoded: parts of another are not gone on with


@dataclass(frozen=True)
class ArrayLayout:
    """How images lie in the array: `side` px; resized whole and [x, y, c], or kept (padded) and [y, x, c]; 1 channel
    if all are grey, else 3.
    """

    side: int
    resized: bool
    channels: int


@dataclass(frozen=True)
class PrepareSpec:
    """What is made of each image.

    Attributes:
        geometry: of the array.
        formats: those to write, of "array", "beton" and "tar".
        beton: how its images are stored.
    """

    geometry: ArrayLayout
    formats: tuple[str, ...]
    beton: beton.Storage


@dataclass(frozen=True)
class Job:
    """Some images and what to do with them.

    Attributes:
        files: paths of the n images.
        labels: int64 [n].
        work: what to make of them.
        stem: path of the part without its suffix.
        measured: bool [n], whose pixels count for the statistics.
        slots: of the formats that have some.
    """

    files: Sequence[str]
    labels: npt.NDArray[np.int64]
    work: PrepareSpec
    stem: Path
    measured: npt.NDArray[np.bool_]
    slots: dict[str, PreallocatedRegions]

    def __len__(self) -> int:
        return len(self.files)


@dataclass(frozen=True)
class JobResult:
    """What a job found, one row an image; bad ones have a reason and zeros.

    Attributes:
        hashes: str [n], xxh3-128 of the file's bytes; "" if it could not be read.
        reasons: str [n], "" for good images.
        grey: bool [n].
        sizes: int32 [n, 2], width and height as decoded, upright.
        sums, squares: int64 [n, 3], of the pixel values in the array, per channel; 0 of images that are not measured.
        bytes: int64 [n, 3], of each image in each of FORMATS; 0 where that is not wanted.
        checks: uint64 [n, 3], xxh3-64 of these bytes.
        payloads: int32 [n, 3], the mode, width and height of the image in the beton.
        converted: bool [n], in the tar it is a PNG of the part, not the original file.
        suffixes: str [n], of the image's name in the tar; "" where that is not wanted.
        placed: bool [n, 3], it was written to its slot, not to the part.
    """

    hashes: npt.NDArray[np.str_]
    reasons: npt.NDArray[np.str_]
    grey: npt.NDArray[np.bool_]
    sizes: npt.NDArray[np.int32]
    sums: npt.NDArray[np.int64]
    squares: npt.NDArray[np.int64]
    bytes: npt.NDArray[np.int64]
    checks: npt.NDArray[np.uint64]
    payloads: npt.NDArray[np.int32]
    converted: npt.NDArray[np.bool_]
    suffixes: npt.NDArray[np.str_]
    placed: npt.NDArray[np.bool_]


@dataclass
class _Row:
    """An image's row of the Part."""

    hash: str = ""
    reason: str = ""
    grey: bool = False
    size: tuple[int, int] = (0, 0)
    sums: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((2, 3), np.int64))
    bytes: list[int] = field(default_factory=lambda: [0, 0, 0])
    checks: list[int] = field(default_factory=lambda: [0, 0, 0])
    payload: tuple[int, int, int] = (0, 0, 0)
    converted: bool = False
    suffix: str = ""
    placed: list[bool] = field(default_factory=lambda: [False, False, False])


class _Output:
    """Where a job's images go in one format: to their slots, else to the part."""

    def __init__(self, job: Job, name: str, stack: ExitStack) -> None:
        self.column = FORMATS.index(name)
        self.part: BinaryIO = stack.enter_context(job.stem.with_suffix(f".{name}").open("wb"))
        self.slots = stack.enter_context(RegionWriter(job.slots.get(name)))

    def note(self, row: _Row, data: bytes | Uint8) -> memoryview:
        """Note the bytes of an image."""
        content = data.data if isinstance(data, np.ndarray) else memoryview(data)
        row.bytes[self.column] = content.nbytes
        row.checks[self.column] = xxhash.xxh3_64_intdigest(content)
        return content

    def add(self, row: _Row, number: int, data: bytes | Uint8) -> None:
        """Note the bytes of the image of that number, and write them."""
        content = self.note(row, data)
        row.placed[self.column] = self.slots.add(number, content)
        if not row.placed[self.column]:
            self.part.write(content)


def begin_worker() -> None:
    """For worker processes: Ctrl-C is for the one that started them, and nothing imported becomes garbage."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()


def hashes(files: Sequence[str]) -> list[str]:
    """xxh3-128 of each file, as a Part has it."""
    return [_hash(path) for path in files]


def _hash(path: str) -> str:
    try:
        return xxhash.xxh3_128_hexdigest(read_file(path))
    except OSError:
        return ""  # its job will say why


def run_job(job: Job) -> None:
    """Write the part of a job."""
    with ExitStack() as stack:
        outputs = {name: _Output(job, name, stack) for name in job.work.formats}
        rows = [_one(job, number, outputs) for number in range(len(job))]
    _save(_part(rows), job.stem)


def _one(job: Job, number: int, outputs: dict[str, _Output]) -> _Row:
    row = _Row()
    try:
        data = read_file(job.files[number])
    except OSError as error:
        row.reason = f"cannot be read: {error.strerror or error}"
        return row
    row.hash = xxhash.xxh3_128_hexdigest(data)
    suffix = os.path.splitext(job.files[number])[1]
    examined = decode_for_resize if job.work.geometry.resized else decode_with_info
    head = plain_jpeg(data, suffix)
    try:
        if head and not job.measured[number] and _bytes_suffice(head, job.work) and is_sound(data):
            _add_file(row, number, head, data, job, outputs)
        else:
            _add_image(row, number, examined(head, data, suffix), data, job, outputs)
    except BadImageError as error:
        row.reason = str(error)
    return row


def _bytes_suffice(head: ImageInfo, work: PrepareSpec) -> bool:
    """Whether no wanted format needs the image's pixels."""
    kept = "beton" not in work.formats or beton.keeps_bytes(head, work.beton)
    return work.geometry.resized and "array" not in work.formats and kept


def _add_file(row: _Row, number: int, head: ImageInfo, data: bytes, job: Job, outputs: dict[str, _Output]) -> None:
    _note(row, head)
    if "beton" in outputs:
        _add_payload(row, number, beton.original_payload(head, data), outputs)
    if "tar" in outputs:
        row.suffix = tar.suffix_of(head.kind)
        _add_original(row, number, data, job, outputs["tar"])


def _add_image(
    row: _Row, number: int, image: DecodedImage | YCbCrImage, data: bytes, job: Job, outputs: dict[str, _Output]
) -> None:
    geometry = job.work.geometry
    if job.measured[number] or "array" in outputs or not geometry.resized:
        pixels = image.x_first(geometry.side) if geometry.resized else padded(image.pixels, geometry.side)
    _note(row, image.head)
    if job.measured[number]:
        row.sums[:, : pixels.shape[2]] = _sums(pixels)
    if "array" in outputs and pixels.shape[2] <= geometry.channels:
        outputs["array"].add(row, number, np.repeat(pixels, 3, 2) if pixels.shape[2] < geometry.channels else pixels)
    if "beton" in outputs:
        # Small images as the array has them, so that both engines shift alike.
        stored = beton.payload(image, data, job.work.beton) if geometry.resized else beton.raw_payload(pixels)
        _add_payload(row, number, stored, outputs)
    if "tar" not in outputs:
        return
    row.suffix = tar.suffix_of(image.head.kind)
    if image.head.kind:
        _add_original(row, number, data, job, outputs["tar"])
    else:
        row.converted = True
        outputs["tar"].part.write(outputs["tar"].note(row, _png(image.pixels)))


def _note(row: _Row, head: ImageInfo) -> None:
    row.size = head.width, head.height
    row.grey = head.channels == 1


def _add_payload(row: _Row, number: int, payload: beton.Payload, outputs: dict[str, _Output]) -> None:
    row.payload = payload.mode, payload.width, payload.height
    outputs["beton"].add(row, number, payload.data)


def _add_original(row: _Row, number: int, data: bytes, job: Job, output: _Output) -> None:
    """Into the tar as it is; without a slot it is read again when the tar is written."""
    output.note(row, data)
    if slots := job.slots.get("tar"):
        blocks = tar.blocks(int(slots.samples[number]), row.suffix, data, int(job.labels[number]))
        row.placed[output.column] = output.slots.add(number, memoryview(blocks))


def _sums(pixels: Uint8) -> npt.NDArray[np.int64]:
    from trainer_classification.kernels import resize

    return np.asarray(resize.sums(pixels))


def _png(pixels: Uint8) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _part(rows: list[_Row]) -> JobResult:
    sums = np.array([row.sums for row in rows])
    return JobResult(
        hashes=np.array([row.hash for row in rows]),
        reasons=np.array([row.reason for row in rows]),
        grey=np.array([row.grey for row in rows]),
        sizes=np.array([row.size for row in rows], np.int32),
        sums=sums[:, 0],
        squares=sums[:, 1],
        bytes=np.array([row.bytes for row in rows], np.int64),
        checks=np.array([row.checks for row in rows], np.uint64),
        payloads=np.array([row.payload for row in rows], np.int32),
        converted=np.array([row.converted for row in rows]),
        suffixes=np.array([row.suffix for row in rows]),
        placed=np.array([row.placed for row in rows]),
    )


def _save(part: JobResult, stem: Path) -> None:
    temporary = stem.with_suffix(".tmp")
    temporary.write_bytes(pickle.dumps(part))
    temporary.replace(stem.with_suffix(".part"))


def is_whole(stem: Path) -> bool:
    """Whether the part is there."""
    return stem.with_suffix(".part").is_file()


def load(stem: Path) -> JobResult:
    """Read a Part."""
    part: JobResult = pickle.loads(stem.with_suffix(".part").read_bytes())
    return part


def joined(parts: Sequence[JobResult]) -> JobResult:
    """The rows of all parts, in order."""
    return JobResult(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])})
