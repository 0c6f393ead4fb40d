"""Assemble shards on the workers of a cluster, from what their jobs have written as objects.

A piece of work is a shard. Its worker reads the images out of the parts of all jobs,
or from their files in the dataset, writes the shard in a folder of its own and reads it
back, as on one machine. Then it writes two objects beside the parts:

    <key>.tar     the shard, or with the suffix of another format
    <key>.made    its ShardFacts; written last, it marks the shard as done

The key is a hash of all that the shard holds. So work that runs twice writes the same
objects twice, and a shard of other images is never taken for it. Whoever publishes the
dataset copies the shards to their names within the store.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import xxhash

from trainer_classification.arrays import Int64
from trainer_classification.data.block_runs import OTHER_GAP_BYTES, RUN_BYTES
from trainer_classification.data.file_names import FileNames
from trainer_classification.data.manifest import FileInfo
from trainer_classification.data.mirror import block_bytes
from trainer_classification.data.sparse_file import Sums, hash_file_blocks
from trainer_classification.preparation.assemble import FormatOutputs, read_back
from trainer_classification.preparation.format import Shard
from trainer_classification.preparation.job_result import PART, FormatResult
from trainer_classification.preparation.preallocated import write_at
from trainer_classification.preparation.workers import Workers
from trainer_classification.storage import ObjectStore

_THREADS = 8  # requests at once, of a worker
_ROWS = "rows"  # stem of the part file with the images of one shard


@dataclass(frozen=True)
class ShardJob:
    """A shard to assemble.

    Attributes:
        url: of the parts, and of what is made.
        shard: to write.
        format: its name.
        block: bytes of a block of the shard, of which a training compares checksums.
        result: of its n images.
        originals: n paths of the original files.
        parts: names of the objects that hold images of it.
        part: int64 [m], number of the object in `parts`, of each image that is in one, ascending.
        offsets: int64 [m], where in that object the image begins.
    """

    url: str
    shard: Shard
    format: str
    block: int
    result: FormatResult
    originals: FileNames
    parts: Sequence[str]
    part: Int64
    offsets: Int64

    def __len__(self) -> int:
        return len(self.originals)

    @cached_property
    def key(self) -> str:
        """Hash of all that shapes the bytes of the shard."""
        content = (self.shard, self.format, self.block, self.result)
        return xxhash.xxh3_128_hexdigest(pickle.dumps(content))

    @property
    def mark(self) -> str:
        """Name of the object that marks the shard as done."""
        return f"{self.key}.made"


@dataclass(frozen=True)
class ShardFacts:
    """What the manifest and a training need of a shard.

    Attributes:
        info: size and checksum.
        sums: uint64 [b], xxh3-64 of each block.
        url: of the object.
        damaged: name of a part that is not what its job wrote, for which there is no
            shard; "" if there is none.
        problem: what is wrong with it.
    """

    info: FileInfo
    sums: Sums
    url: str
    damaged: str = ""
    problem: str = ""


def cut_job(
    url: str, shard: Shard, outputs: FormatOutputs, split_rows: Int64, image_bytes: int
) -> ShardJob:
    """Return the work of assembling a shard.

    Args:
        url: of the parts.
        shard: to write.
        outputs: of all jobs.
        split_rows: int64, ascending, the row in `outputs` of each sample of the split.
        image_bytes: of an image in the array.
    """
    rows = split_rows[shard.samples]
    stored = rows[outputs.result.location[rows] == PART]
    numbers, offsets = outputs.locate(stored)
    used, part = np.unique(numbers, return_inverse=True)
    return ShardJob(
        url=url,
        shard=shard,
        format=outputs.name,
        block=block_bytes(shard.path, image_bytes),
        result=outputs.result.select(rows),
        originals=outputs.originals.take(rows),
        parts=[outputs.file(number).name for number in used.tolist()],
        part=part,
        offsets=offsets,
    )


def assemble_all(
    jobs: Sequence[ShardJob], store: ObjectStore, folder: Path, workers: Workers
) -> dict[str, ShardFacts]:
    """Assemble the shards that are not done, and return the facts of all by their paths.

    Args:
        jobs: the shards of one build.
        store: of the parts.
        folder: local, that the results of the jobs of the parts were fetched to.
        workers: of a cluster.

    Raises:
        ValueError: a part is not what its job wrote. It counts as missing from then
            on, so that the same command makes it again.
    """
    names = set(store.list_names())
    done = [job for job in jobs if job.mark in names]
    pending = [job for job in jobs if job.mark not in names]
    with ThreadPoolExecutor(_THREADS, "read facts") as pool:
        facts: list[ShardFacts] = [
            pickle.loads(content) for content in pool.map(lambda job: store.read(job.mark), done)
        ]
    facts += workers.run("assembling", assemble_shard, pending, sum(map(len, done)))

    damaged = {one.damaged: one.problem for one in facts if one.damaged}
    for part in damaged:
        result = Path(part).with_suffix(".part").name
        store.delete(result)
        (folder / result).unlink(missing_ok=True)
    if damaged:
        part, problem = next(iter(damaged.items()))
        raise ValueError(
            f"{store.url}/{part} is not what was written there ({problem}): run the same command again, which makes "
            f"it anew."
        )
    paths = (job.shard.path for job in (*done, *pending))
    return dict(zip(paths, facts, strict=True))


def assemble_shard(job: ShardJob) -> ShardFacts:
    """Assemble a shard, and write it as an object; the one that marks it as done is written last.

    Raises:
        ValueError: an object cannot be written, or an original file has changed.
        OSError: what was written here is not what is read back.
    """
    store = ObjectStore(job.url)
    with tempfile.TemporaryDirectory(prefix="prepare-") as name:
        folder = Path(name)
        stem = folder / _ROWS
        try:
            _fetch_images(job, store, stem.with_suffix(f".{job.format}"))
        except _DamagedPartError as error:
            return ShardFacts(FileInfo(0, ""), np.zeros(0, np.uint64), "", *error.args)

        start = np.zeros(1, np.int64)
        outputs = FormatOutputs(job.format, [stem], start, job.result, job.originals, None)
        extents = job.shard.write(folder, outputs)
        info = read_back(folder, extents, np.arange(len(job)), outputs)

        path = folder / job.shard.path
        xxh3, sums = hash_file_blocks(path, job.block)
        if xxh3 != info.xxh3:
            raise OSError(f"{path} is not what was written: check the disk of this worker.")
        content = f"{job.key}{path.suffix}"
        store.upload(path, content)
    facts = ShardFacts(info, sums, f"{job.url}/{content}")
    store.write(job.mark, pickle.dumps(facts))
    return facts


class _DamagedPartError(Exception):
    """A part is not what its job wrote; its name, and what is wrong."""


def _fetch_images(job: ShardJob, store: ObjectStore, path: Path) -> None:
    """Write the images of a shard that parts hold into a part file of their own, one after another.

    A request holds at most `RUN_BYTES` in memory, or one image.

    Raises:
        _DamagedPartError: a part cannot be read, or an image is not what its job wrote.
    """
    stored = job.result.location == PART
    sizes = job.result.bytes[stored]
    checksums = job.result.checksums[stored].tolist()
    targets = (np.cumsum(sizes) - sizes).tolist()
    starts = job.offsets.tolist()
    ends = (job.offsets + sizes).tolist()

    def fetch(run: range) -> None:
        part = job.parts[job.part[run.start]]
        first = starts[run.start]
        try:
            data = memoryview(store.read(part, first, ends[run.stop - 1]))
        except FileNotFoundError:
            raise _DamagedPartError(part, "it is gone") from None
        except ValueError as error:  # it may be shorter
            raise _DamagedPartError(part, str(error)) from None
        for row in run:
            image = data[starts[row] - first : ends[row] - first]
            if xxhash.xxh3_64_intdigest(image) != checksums[row]:
                raise _DamagedPartError(part, "an image has changed")
            write_at(file.fileno(), [image], targets[row])

    with path.open("wb") as file, ThreadPoolExecutor(_THREADS, "fetch images") as pool:
        for _ in pool.map(fetch, _join(job.part.tolist(), starts, ends)):
            pass


def _join(part: Sequence[int], starts: Sequence[int], ends: Sequence[int]) -> Iterator[range]:
    """Yield the images that one request fetches: of one part, with small gaps between them.

    Args:
        part: number of the part of each image, ascending.
        starts: of each in its part, ascending within it.
        ends: of each.
    """
    first = 0
    for row in range(1, len(part) + 1):
        if (
            row == len(part)
            or part[row] != part[first]
            or starts[row] - ends[row - 1] > OTHER_GAP_BYTES
            or ends[row] - starts[first] > RUN_BYTES
        ):
            yield range(first, row)
            first = row
