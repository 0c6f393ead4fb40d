"""A job of prepare: some hundred images, each read and decoded once, and encoded for every wanted format.

What a job writes is a pure function of its images and options. So the shards do
not depend on the number of workers, and a killed run continues with the jobs that
are not done. Every worker process imports this file: it imports little.

    <stem>.<format>    encoded images that have no preallocated region (`preallocated.py`) and are no original files
    <stem>.at          the row of the image at work; a worker that is killed leaves it, so that the image can be named
    <stem>.part        the JobResult; written last, it marks the job as done
"""

from __future__ import annotations

import dataclasses
import gc
import multiprocessing
import os
import signal
import struct
import threading
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np
import numpy.typing as npt
import xxhash

from trainer_classification.arrays import Int32, Int64, Uint8
from trainer_classification.data.decode import (
    MAX_PIXELS,
    BadImageError,
    DecodedImage,
    ImageInfo,
    LargeJpeg,
    YCbCrImage,
    count_pixels,
    decode_for_array,
    decode_kept,
    estimate_bytes,
    is_sound,
    make_thumbnail,
    plain_jpeg,
    unpad,
)
from trainer_classification.files import read_file
from trainer_classification.preparation.content_hash import HASH, hash_content
from trainer_classification.preparation.format import (
    EncodedImage,
    PrepareSpec,
    SourceImage,
    StoredImage,
)
from trainer_classification.preparation.formats import FORMATS
from trainer_classification.preparation.job_result import (
    ORIGINAL,
    PART,
    REGION,
    FormatResult,
    JobResult,
)
from trainer_classification.preparation.kept_images import KeptImages, KeptReader
from trainer_classification.preparation.memory import MemoryBudget
from trainer_classification.preparation.mirrored_classes import SIDE
from trainer_classification.preparation.preallocated import PreallocatedRegions, RegionWriter
from trainer_classification.stop_signals import postpone_stop

IMAGES_PER_JOB = 500
PIXELS_PER_JOB = 500_000_000  # of the images' own sizes: some seconds of work
VERSION = 10  # of how images are decoded: what another version has decoded is not used

_budget: MemoryBudget | None = None  # of this worker process

_FEW_PIXELS = 500_000  # for which no memory is reserved
_ROW = struct.Struct("<q")


@dataclass(frozen=True)
class Job:
    """Some images and what to do with them.

    Attributes:
        files: paths of the n images.
        labels: int32 [n].
        pixels: int64 [n], as the table or their headers say.
        spec: what to make of them.
        stem: path of the part files without their suffix.
        measured: bool [n], whose pixels count for the statistics.
        compared: bool [n], those of them of which a thumbnail is kept.
        deadly: paths of images that have ended a worker process; they count as
            bad.
        samples: int64 [n], the sample ids if every image is good; None if there
            are no regions.
        regions: by the name of the format, for those that have preallocated
            regions.
        kept: the images that an older prepared folder holds; None if there is none.
    """

    files: Sequence[str]
    labels: Int32
    pixels: npt.NDArray[np.int64]
    spec: PrepareSpec
    stem: Path
    measured: npt.NDArray[np.bool_]
    compared: npt.NDArray[np.bool_]
    samples: npt.NDArray[np.int64] | None
    regions: dict[str, PreallocatedRegions]
    deadly: frozenset[str] = frozenset()
    kept: KeptImages | None = None

    def __len__(self) -> int:
        return len(self.files)


class _FormatWriter:
    """Write the images of a job in one format: to their regions, else to the part file."""

    def __init__(self, job: Job, name: str, stack: ExitStack) -> None:
        self.result = FormatResult.empty(len(job), FORMATS[name].fields)
        self._path = job.stem.with_suffix(f".{name}")
        self._temporary = self._path.with_name(f"{self._path.name}.{uuid.uuid4().hex}")
        self._part: BinaryIO = stack.enter_context(self._temporary.open("wb"))
        self._regions = stack.enter_context(RegionWriter(job.regions.get(name)))

    def finish(self) -> None:
        """Give the part file its name, once it is closed and whole.

        A cluster may run a job twice at once, and kill one of both.
        """
        self._temporary.replace(self._path)

    def add(self, number: int, image: EncodedImage) -> None:
        """Write the image of that number and note where it is."""
        content = _view(image.data)
        self.result.bytes[number] = content.nbytes
        self.result.checksums[number] = xxhash.xxh3_64_intdigest(content)
        self.result.fields[number] = image.fields

        if image.region is not None and self._regions.add(number, _view(image.region)):
            self.result.location[number] = REGION
        elif image.is_original:
            self.result.location[number] = ORIGINAL
        else:
            self._part.write(content)
            self.result.location[number] = PART


def _view(data: bytes | Uint8) -> memoryview:
    return data.data if isinstance(data, np.ndarray) else memoryview(data)


def begin_worker(budget: MemoryBudget | None = None) -> None:
    """Set up a worker process.

    Ctrl-C is left to its parent, with which it ends however that ends. Imported
    objects are no garbage to look through.

    Args:
        budget: the memory for decoding; None: no bound.
    """
    global _budget
    _budget = budget
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    gc.freeze()


def _end_with_parent() -> None:
    """End this worker once the process that gives it work is gone: no signal tells of that."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        _leave()


def _leave(*_: object) -> None:
    """End a worker that is stopped because another process was killed: its own image is not to blame."""
    for path in list(_ImageAtWork.paths):
        path.unlink(missing_ok=True)
    os._exit(1)


class _ImageAtWork:
    """Keep the row of the image at work in a file, for `find_deadly`.

    A context manager.
    """

    paths: ClassVar[set[Path]] = set()  # those of this process

    def __init__(self, job: Job) -> None:
        self._path = at_path(job.stem)

    def __enter__(self) -> _ImageAtWork:
        self.paths.add(self._path)
        self._file = self._path.open("wb", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)  # where the job runs twice
        self.paths.discard(self._path)

    def set(self, number: int) -> None:
        """Write the row of the image."""
        os.pwrite(self._file.fileno(), _ROW.pack(number), 0)


def at_path(stem: Path) -> Path:
    """Return where the row of the image at work is noted, by the stem of the job's files."""
    return stem.with_suffix(".at")


def divide(pixels: Int64) -> Int64:
    """Return the first row of each job: none has more than its images or, but for a single one, its pixels.

    Args:
        pixels: int64 [n], of each image.
    """
    ends = np.cumsum(pixels)
    starts = [0]
    while True:
        first = starts[-1]
        before = int(ends[first - 1]) if first else 0
        by_pixels = int(np.searchsorted(ends, before + PIXELS_PER_JOB, "right"))
        following = max(first + 1, min(first + IMAGES_PER_JOB, by_pixels))
        if following >= len(pixels):
            return np.array(starts)
        starts.append(following)


def find_deadly(jobs: Sequence[Job]) -> list[str]:
    """Return the images at which worker processes were killed, and forget them."""
    found = []
    for job in jobs:
        path = at_path(job.stem)
        row = path.read_bytes() if path.is_file() else b""
        path.unlink(missing_ok=True)
        if len(row) == _ROW.size:
            found.append(job.files[_ROW.unpack(row)[0]])
    return found


def hash_files(files: Sequence[str]) -> npt.NDArray[np.bytes_]:
    """Return the hash of each file: HASH [n]; b"" if it cannot be read."""
    return np.array([_hash_file(path) for path in files], HASH)


def _hash_file(path: str) -> bytes:
    try:
        return hash_content(read_file(path))
    except OSError:
        return b""  # the job of this file will give the reason


def run_job(job: Job) -> None:
    """Decode and write the images of a job, and save its result."""
    result = JobResult.empty(len(job), int(job.compared.sum()))
    with ExitStack() as stack:
        writers = {name: _FormatWriter(job, name, stack) for name in job.spec.formats}
        kept = stack.enter_context(KeptReader(job.kept))
        at_work = stack.enter_context(_ImageAtWork(job))
        for number in range(len(job)):
            at_work.set(number)
            contents = kept.read(number)
            with postpone_stop():  # a single job runs in the command's own process
                if contents is not None:
                    _copy(job, number, contents, writers, result)
                elif reason := _process(job, number, writers, result):
                    result.reasons[number] = reason

    for writer in writers.values():
        writer.finish()
    formats = {name: writer.result for name, writer in writers.items()}
    dataclasses.replace(result, formats=formats).save(job.stem)


def _copy(
    job: Job,
    number: int,
    contents: dict[str, bytes],
    writers: dict[str, _FormatWriter],
    result: JobResult,
) -> None:
    """Write an image of an older prepared folder, with the result that decoding it again would have.

    Args:
        job: with kept images.
        number: of the image.
        contents: its bytes in each format.
        writers: by the name of the format.
        result: takes what is known of the image.
    """
    assert job.kept is not None
    row = int(job.kept.row[number])
    image = job.kept.images[row]
    result.hashes[number] = image["hash"]
    result.sizes[number] = image["size"]
    result.gray[number] = image["gray"]
    result.contents[number] = image["content"]
    result.peaks[number] = image["peak"]
    result.has_more[number] = image["has_more"]
    if job.measured[number]:
        _measure_copy(job, number, contents, result)

    sample = None if job.samples is None else int(job.samples[number])
    for name, data in contents.items():
        fields = job.kept.formats[name].fields[row].item()
        stored = StoredImage(data, fields, int(job.labels[number]), sample, image["hash"])
        writers[name].add(number, FORMATS[name].restore(stored))


def _measure_copy(job: Job, number: int, contents: dict[str, bytes], result: JobResult) -> None:
    """Note the statistics and the thumbnail of an image, from its bytes in the array."""
    layout = job.spec.layout
    pixels = next(
        read(data, layout)
        for name, data in contents.items()
        if (read := FORMATS[name].array_pixels)
    )
    if result.gray[number]:
        pixels = np.ascontiguousarray(pixels[:, :, :1])
    sums = _sum_pixels(pixels)
    result.sums[number, : pixels.shape[2]] = sums[0]
    result.squares[number, : pixels.shape[2]] = sums[1]
    if not job.compared[number]:
        return

    if layout.resized:
        thumbnail = make_thumbnail(pixels, SIDE).T
    else:
        width, height = result.sizes[number].tolist()
        thumbnail = make_thumbnail(unpad(pixels, width, height), SIDE)
    result.thumbnails[job.compared[:number].sum()] = thumbnail


def _process(job: Job, number: int, writers: dict[str, _FormatWriter], result: JobResult) -> str:
    """Read, decode, encode and write an image.

    Return why it is bad, or "" if it is good.
    """
    path = job.files[number]
    if path in job.deadly:
        return "ends the process that decodes it"
    try:
        data = read_file(path)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    result.hashes[number] = hash_content(data)

    with _reserve(job, number, data):
        return _encode(job, number, data, writers, result)


def _reserve(job: Job, number: int, data: bytes) -> AbstractContextManager[None]:
    """Wait until there is memory for decoding an image."""
    if _budget is None:
        return nullcontext()
    # What a table says may be wrong; what is more than this is refused without being decoded.
    pixels = min(max(int(job.pixels[number]), count_pixels(data)), MAX_PIXELS)
    if pixels < _FEW_PIXELS:
        return nullcontext()
    layout = job.spec.layout
    is_reduced = layout.resized and not any(FORMATS[name].sizes_differ for name in job.spec.formats)
    return _budget.reserve(estimate_bytes(data, pixels, layout.side if is_reduced else 0))


def _encode(
    job: Job,
    number: int,
    data: bytes,
    writers: dict[str, _FormatWriter],
    result: JobResult,
) -> str:
    """Decode, encode and write an image; see `_process`."""
    # Everything is encoded before anything is written: a bad image leaves no
    # trace.
    try:
        image = _open_image(job, number, data)
        pixels = image.array_pixels if job.measured[number] or not job.spec.layout.resized else None
        encoded = {name: FORMATS[name].encode(image, job.spec) for name in writers}
    except BadImageError as error:
        return str(error)

    result.sizes[number] = image.info.width, image.info.height
    result.gray[number] = image.info.channels == 1
    result.contents[number] = image.info.content.encode()
    result.peaks[number] = image.info.peak
    result.has_more[number] = image.info.has_more
    if job.measured[number] and pixels is not None:
        sums = _sum_pixels(pixels)
        result.sums[number, : pixels.shape[2]] = sums[0]
        result.squares[number, : pixels.shape[2]] = sums[1]
    if job.compared[number] and pixels is not None:
        result.thumbnails[job.compared[:number].sum()] = _make_thumbnail(job, image, pixels)
    for name, stored in encoded.items():
        if stored is not None:
            writers[name].add(number, stored)

    return ""


def _open_image(job: Job, number: int, data: bytes) -> SourceImage:
    """Decode an image, or only check its JPEG where every wanted format keeps the file.

    Raises:
        BadImageError: it cannot be decoded.
    """
    info = plain_jpeg(data)
    label = int(job.labels[number])
    sample = None if job.samples is None else int(job.samples[number])

    if info and not job.measured[number] and _file_suffices(info, job.spec) and is_sound(data):
        return SourceImage(data, info, job.spec.layout, label, sample, None)

    decoded: DecodedImage | YCbCrImage | LargeJpeg
    if job.spec.layout.resized:
        decoded = decode_for_array(info, data, job.spec.layout.side, job.spec.gray_shift)
    else:
        decoded = decode_kept(info, data, job.spec.gray_shift)

    return SourceImage(data, decoded.info, job.spec.layout, label, sample, decoded)


def _file_suffices(info: ImageInfo, spec: PrepareSpec) -> bool:
    """Return whether no wanted format needs the pixels.

    Small images are always checked against the table's size.
    """
    return spec.layout.resized and all(
        FORMATS[name].keeps_file(info, spec) for name in spec.formats
    )


def _make_thumbnail(job: Job, image: SourceImage, pixels: Uint8) -> Uint8:
    """Return a thumbnail of an image as it is trained on, without the padding of small ones."""
    if job.spec.layout.resized:
        return make_thumbnail(pixels, SIDE).T  # of [x, y, c]
    return make_thumbnail(image.pixels, SIDE)


def _sum_pixels(pixels: Uint8) -> npt.NDArray[np.int64]:
    """Return the sums of the values and of their squares, per channel: int64 [2, C]."""
    from trainer_classification.kernels import (
        resize,
    )  # numba: a job that only keeps files does not need it

    return np.asarray(resize.sums(pixels))
