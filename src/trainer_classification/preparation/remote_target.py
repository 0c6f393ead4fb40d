"""Prepare into object storage: build in a folder of a local disk, then publish that as objects.

The folder is the one that a training would mirror the dataset in (`data/mirror.py`).
The manifest is uploaded last, and deleted first where files are replaced: what has a
manifest is whole. Workers of a cluster see no folder of this machine. They write what
a job makes as objects below `NAME.partial/`, the job's result last. This machine
fetches the results, and what has to be assembled here; other shards workers assemble
(`remote_assembly.py`). Once a worker was killed, each job runs in a process beside its
worker, which survives to say at which image that was.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import xxhash

from trainer_classification.console import log
from trainer_classification.data import manifest, mirror
from trainer_classification.data.manifest import Manifest
from trainer_classification.data.sparse_file import Sums, hash_file_blocks
from trainer_classification.preparation.formats import FORMATS
from trainer_classification.preparation.job import Job, at_path, run_job
from trainer_classification.preparation.job_result import is_done
from trainer_classification.preparation.remote_assembly import ShardFacts
from trainer_classification.storage import ObjectStore

_THREADS = 8  # objects at once; s3fs sends several parts of each
_COPIES = 32  # that the store makes at once
_PIECE = 8 << 20  # bytes that are read at once to compute checksums
_PARTIAL = ".partial"
_ISOLATED = [sys.executable, "-m", "trainer_classification.preparation.isolated_job"]


def complete(folder: Path, found: Manifest) -> None:
    """Fetch all that a mirror lacks, so that it is an ordinary prepared folder."""
    if mirror.is_mirror(folder):
        manifest.bring_files(folder, found, found.files)
        mirror.forget_origin(folder)


def upload(
    folder: Path,
    made: Manifest,
    store: ObjectStore,
    force: bool = False,
    elsewhere: Mapping[str, ShardFacts] | None = None,
) -> None:
    """Publish a prepared folder, the manifest last; nothing happens if that is done.

    Args:
        folder: that is whole but for what is elsewhere.
        made: its manifest.
        store: of the dataset.
        force: write again what is there by the manifest there.
        elsewhere: the files that are objects of the store under other names.

    Raises:
        ValueError: an object cannot be written.
        OSError: a file is not what was written.
    """
    content = (folder / manifest.FILE_NAME).read_bytes()
    before = store.read_if_there(manifest.FILE_NAME)
    if before != content or force:
        there = {} if force else manifest.list_files(before)
        new = {name: info for name, info in made.files.items() if there.get(name) != info}
        if force or any(name in there for name in new):
            store.delete(manifest.FILE_NAME)
        copies = {name: facts for name, facts in (elsewhere or {}).items() if name in new}
        here = [name for name in new if name not in copies]
        megabytes = sum(new[name].bytes for name in here) / 1e6
        log(f"Uploading {len(here)} files ({megabytes:,.1f} MB) to {store.url}.")
        with ThreadPoolExecutor(_THREADS, "upload") as pool:
            uploaded = pool.map(lambda name: _upload(folder, name, made, store), here)
            sums = dict(zip(here, uploaded, strict=True))
        sums |= _copy_all(copies, store)
        checksums = _pack_checksums(made, store, sums)
        store.write(mirror.CHECKSUMS, checksums)
        store.write(manifest.DIGEST_NAME, (folder / manifest.DIGEST_NAME).read_bytes())
        store.write(manifest.FILE_NAME, content)
        mirror.adopt(folder, store, checksums)
        log(f"{made.dataset} is prepared in {store.url}.")
    parts_store(store).delete_all()


def _copy_all(copies: Mapping[str, ShardFacts], store: ObjectStore) -> dict[str, Sums]:
    """Copy shards to their names within the store, and return the checksums of their blocks."""
    if copies:
        megabytes = sum(facts.info.bytes for facts in copies.values()) / 1e6
        log(f"The store copies {len(copies)} shards ({megabytes:,.1f} MB) to their names.")

    def copy(name: str) -> None:
        store.copy(copies[name].url, name, copies[name].info.bytes)

    with ThreadPoolExecutor(_COPIES, "copy") as pool:
        for _ in pool.map(copy, copies):
            pass
    return {name: facts.sums for name, facts in copies.items()}


def _upload(folder: Path, name: str, made: Manifest, store: ObjectStore) -> Sums:
    """Upload a file, and return the checksums of its blocks: uint64 [b].

    Raises:
        OSError: the file is not what the manifest says.
    """
    xxh3, sums = hash_file_blocks(folder / name, mirror.block_bytes(name, made.image_bytes))
    if xxh3 != made.files[name].xxh3:
        raise OSError(
            f"{folder / name} is not what was written: prepare the dataset again with prepare.py --force."
        )
    store.upload(folder / name, name)
    return sums


def _pack_checksums(made: Manifest, store: ObjectStore, sums: dict[str, Sums]) -> bytes:
    """Return the checksums of the blocks of new files, and those of files that are there, as an object."""
    if len(sums) < len(made.files):
        before = store.read_if_there(mirror.CHECKSUMS)
        older = {} if before is None else mirror.unpack_checksums(before)[1]
        sums = {name: older[name] for name in made.files if name in older} | sums
    blocks = {name: mirror.block_bytes(name, made.image_bytes) for name in sums}
    return mirror.pack_checksums(blocks, sums)


def verify(found: Manifest, store: ObjectStore) -> None:
    """Compare every object of a prepared dataset with its checksum.

    Raises:
        ValueError: one is missing or differs.
    """
    for name, info in found.files.items():
        state = xxhash.xxh3_128()
        try:
            for start in range(0, info.bytes, _PIECE):
                state.update(store.read(name, start, min(start + _PIECE, info.bytes)))
        except FileNotFoundError:
            state.reset()
        if state.hexdigest() != info.xxh3:
            raise ValueError(
                f"{store.url}/{name} is missing or damaged: prepare the dataset again with prepare.py --force."
            )
    log(f"{store.url} is complete: {len(found.files)} files agree with their checksums.")


def parts_store(store: ObjectStore) -> ObjectStore:
    """Return where the parts of a dataset are, of all its builds."""
    return ObjectStore(store.url + _PARTIAL)


@dataclass(frozen=True)
class RemoteJob:
    """A job whose files become objects.

    Attributes:
        job: with a stem on the machine that asked for it.
        url: that its objects are below.
        isolated: whether it runs in a process of its own, which an image may end.
    """

    job: Job
    url: str
    isolated: bool = False

    def __len__(self) -> int:
        return len(self.job)


def run_remote_job(remote: RemoteJob) -> bytes:
    """Run a job in a folder of this machine, and write its files as objects, the one that marks it as done last.

    A job that runs twice writes the same bytes twice.

    Returns:
        Nothing, or the row of the image that ended the process of an isolated job,
        as `find_deadly` reads it.
    """
    store = ObjectStore(remote.url)
    with tempfile.TemporaryDirectory(prefix="prepare-") as folder:
        stem = Path(folder) / remote.job.stem.name
        job = replace(remote.job, stem=stem)
        if remote.isolated:
            if at := _run_isolated(job):
                return at
        else:
            run_job(job)
        for path in sorted(Path(folder).iterdir(), key=_is_mark):
            store.upload(path, path.name)
    return b""


def _run_isolated(job: Job) -> bytes:
    """Run a job in a process of its own, and return the row of the image that ended it; nothing if none did.

    Workers of Dask may not start processes by multiprocessing.

    Raises:
        RuntimeError: the job failed otherwise.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        _ISOLATED, input=pickle.dumps(job), stderr=subprocess.PIPE, env=environment
    )
    path = at_path(job.stem)
    if path.is_file():  # an error that Python knows takes it away
        return path.read_bytes()
    if done.returncode:
        raise RuntimeError(
            done.stderr.decode(errors="replace")[-2000:] or f"ended by {done.returncode}"
        )
    return b""


def _is_mark(path: Path) -> bool:
    return path.suffix == ".part"


@dataclass(frozen=True)
class RemoteParts:
    """The parts of one build in object storage, and the local folder for those that are needed here.

    Attributes:
        store: of the parts; its name has a hash of all that shapes their bytes.
        folder: local, made by `partial.claim`.
    """

    store: ObjectStore
    folder: Path

    @classmethod
    def of_build(cls, store: ObjectStore, purpose: dict[str, str], folder: Path) -> RemoteParts:
        """Return the parts of a build.

        Args:
            store: of the dataset.
            purpose: everything that shapes the bytes.
            folder: local.
        """
        key = xxhash.xxh3_64_hexdigest(json.dumps(purpose, sort_keys=True).encode())
        return cls(parts_store(store).below(key), folder)

    def assembles(self, name: str) -> bool:
        """Return whether workers assemble the shards of a format, so that its parts are not needed here."""
        return self.store.can_copy and FORMATS[name].write_beside is not None

    def fetch_finished(self, jobs: Sequence[Job]) -> None:
        """Fetch what an interrupted build has left of jobs that are not done here."""
        names = set(self.store.list_names())
        left = [job for job in jobs if f"{job.stem.name}.part" in names and not is_done(job.stem)]
        with self.fetching() as fetch:
            for job in left:
                fetch(RemoteJob(job, self.store.url), b"")

    @contextmanager
    def fetching(self) -> Iterator[Callable[[RemoteJob, bytes], None]]:
        """Yield a function that begins to fetch what is needed here of a job; at the end all is here.

        It takes the job and what `run_remote_job` returned, which is noted where
        `find_deadly` looks for it.
        """

        def fetch(remote: RemoteJob, at: bytes) -> None:
            if at:
                at_path(self.folder / remote.job.stem.name).write_bytes(at)
            else:
                futures.append(pool.submit(self._fetch, remote.job))

        futures: list[Future[None]] = []
        with ThreadPoolExecutor(_THREADS, "fetch parts") as pool:
            yield fetch
        for future in futures:
            future.result()

    def _fetch(self, job: Job) -> None:
        here = [name for name in job.spec.formats if not self.assembles(name)]
        for suffix in (*here, "part"):
            name = f"{job.stem.name}.{suffix}"
            path = self.folder / name
            temporary = path.with_name(f"{name}.fetched")
            try:
                self.store.download(name, temporary)
            except FileNotFoundError:
                raise ValueError(
                    f"{self.store.url}/{name} is gone: run the same command again."
                ) from None
            temporary.replace(path)
