"""Read a prepared dataset in object storage through a folder on a local disk that mirrors it.

Each file of the mirror has its full size from the start, and takes room only for the
blocks that were fetched: readers map it into memory as a local one. Before an image
is read, its blocks have to be here; `check_files` (`manifest.py`) and `RemoteImages`
see to that.

    .origin.json        the URL, and the boot of the machine in which blocks were written
    .blocks/<file>      one byte per block: MISSING, HERE or UNSURE; a killed run goes on from it
    .blocks/checksums   copy of `checksums.npz`

`checksums.npz` lies beside the manifest in the store: bytes per block and xxh3-64 of
each block of each file. Without it, files are fetched whole and compared with the
manifest.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer_classification.arrays import Int64
from trainer_classification.console import disk_size, log
from trainer_classification.files import hash_file, write_atomically
from trainer_classification.storage import ObjectStore

CHECKSUMS = "checksums.npz"
_ORIGIN = ".origin.json"
_BLOCKS = ".blocks"
_BLOCK_BYTES = 1 << 18  # of a block, about: an image of 280 px in the array has 235,200 bytes
_RUN_BYTES = 8 << 20  # most bytes of one request
_THREADS = 16  # requests at once, of a process
_AHEAD = 64  # blocks that are asked for together, ahead of the loop
_TRIES = 3  # of a block whose checksum is wrong
_LARGE = 64 << 20  # bytes from which on a line tells that a file is fetched

Sums = npt.NDArray[np.uint64]

MISSING = 0
HERE = 1
UNSURE = 2  # written before the machine was started again: a power failure may have taken the data, not the note


def is_mirror(folder: Path) -> bool:
    """Return whether a folder mirrors a prepared dataset in object storage."""
    return (folder / _ORIGIN).is_file()


def block_bytes(name: str, image_bytes: int) -> int:
    """Return the bytes of a block of a file: whole images in an array."""
    if not name.startswith("array/"):
        return _BLOCK_BYTES
    return image_bytes * max(1, _BLOCK_BYTES // image_bytes)


def pack_checksums(blocks: Mapping[str, int], sums: Mapping[str, Sums]) -> bytes:
    """Return the content of `checksums.npz`.

    Args:
        blocks: bytes of a block, by the file's name.
        sums: uint64 [n], xxh3-64 of each block, by the file's name.
    """
    head = np.frombuffer(json.dumps(dict(blocks)).encode(), np.uint8)
    file = io.BytesIO()
    columns: dict[str, Any] = dict(sums)
    np.savez(file, head=head, **columns)
    return file.getvalue()


def unpack_checksums(content: bytes) -> tuple[dict[str, int], dict[str, Any]]:
    """Return what `pack_checksums` was given."""
    arrays = np.load(io.BytesIO(content), allow_pickle=False)
    blocks = json.loads(arrays["head"].tobytes())

    return blocks, {name: arrays[name] for name in blocks}


def write_mirror(folder: Path, store: ObjectStore, files: Mapping[str, bytes]) -> None:
    """Make a mirror of a prepared dataset of which nothing is fetched but its manifest.

    Args:
        folder: to make.
        store: of the dataset.
        files: content by name: the manifest, and its checksum if there is one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_origin(folder, store.url)
    (folder / _BLOCKS).mkdir(exist_ok=True)
    checksums = store.read_if_there(CHECKSUMS)
    if checksums is not None:
        write_atomically(folder / _BLOCKS / "checksums", checksums)
    for name in sorted(files, key=lambda name: name.endswith(".json")):  # the manifest last
        write_atomically(folder / name, files[name])


def adopt(folder: Path, store: ObjectStore, checksums: bytes) -> None:
    """Make a folder, all of whose files are in object storage now, the mirror of these.

    Args:
        folder: that was prepared here.
        store: of the dataset.
        checksums: content of `checksums.npz`.
    """
    for name, sums in unpack_checksums(checksums)[1].items():
        path = _map_path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([HERE]) * len(sums))
    (folder / _BLOCKS / "checksums").write_bytes(checksums)
    _write_origin(folder, store.url)


def last_use(folder: Path) -> int:
    """Return when a mirror was made or woken, in nanoseconds."""
    return (folder / _ORIGIN).stat().st_mtime_ns


def wake_mirror(folder: Path) -> None:
    """Note that a mirror is used, and doubt what was fetched before the machine was started."""
    origin = json.loads((folder / _ORIGIN).read_text(encoding="utf-8"))
    if origin["boot"] != _boot_id():
        for path in (folder / _BLOCKS).rglob("*.map"):
            state = np.fromfile(path, np.uint8)
            write_atomically(
                path, np.where(state == HERE, UNSURE, state).astype(np.uint8).tobytes()
            )
    _write_origin(folder, origin["url"])


def forget_origin(folder: Path) -> None:
    """Make a mirror, of which everything is fetched, an ordinary prepared folder."""
    (folder / _ORIGIN).unlink()
    shutil.rmtree(folder / _BLOCKS)


def _write_origin(folder: Path, url: str) -> None:
    write_atomically(folder / _ORIGIN, json.dumps({"url": url, "boot": _boot_id()}))


@cache
def _boot_id() -> str:
    """Return what changes when the machine is started again; "" where nothing tells."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def bring(folder: Path, files: Mapping[str, tuple[int, str]], on_demand: bool = False) -> None:
    """Make files of a mirror readable: fetch them, or only give them their size.

    Args:
        folder: of the mirror.
        files: (bytes, xxh3-128) by name, as the manifest has them.
        on_demand: images are fetched later, by `RemoteImages`.

    Raises:
        ValueError: a file cannot be fetched, or is not what was prepared.
    """
    mirror = _open_mirror(folder)
    for name, (size, xxh3) in files.items():
        file = mirror.file(name, size)
        if not on_demand or file.sums is None:
            file.fetch_all(xxh3)


@lru_cache(maxsize=8)
def _open(folder: str, version: tuple[int, int]) -> Mirror:
    return Mirror(Path(folder))


def _open_mirror(folder: Path) -> Mirror:
    """Return the mirror in a folder; the same one until it is made or woken again."""
    origin = (folder / _ORIGIN).stat()
    return _open(str(folder.absolute()), (origin.st_ino, origin.st_mtime_ns))


class Mirror:
    """The files of a mirror.

    Args:
        folder: that holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        origin = json.loads((folder / _ORIGIN).read_text(encoding="utf-8"))
        self.store = ObjectStore(origin["url"])
        self._files: dict[str, SparseFile] = {}
        self._blocks: dict[str, int] = {}
        self._sums: dict[str, Any] = {}
        checksums = folder / _BLOCKS / "checksums"
        if checksums.is_file():
            self._blocks, self._sums = unpack_checksums(checksums.read_bytes())

    def file(self, name: str, size: int) -> SparseFile:
        """Return a file, which has its full size from then on.

        Args:
            name: relative to the folder.
            size: bytes.
        """
        if name not in self._files:
            block = self._blocks.get(name, _BLOCK_BYTES)
            sums = self._sums.get(name)
            if sums is not None and len(sums) != -(-size // block):
                sums = None
            self._files[name] = SparseFile(self.store, self._folder, name, size, block, sums)
        return self._files[name]


class SparseFile:
    """A file of a mirror, whose blocks are fetched when they are needed.

    Several processes may fetch into one file: they write the same bytes.

    Args:
        store: of the dataset.
        folder: of the mirror.
        name: of the file, relative to it.
        size: in bytes.
        block: bytes of a block.
        sums: uint64 [n], xxh3-64 of each block; None: not known.
    """

    def __init__(
        self,
        store: ObjectStore,
        folder: Path,
        name: str,
        size: int,
        block: int,
        sums: Sums | None,
    ) -> None:
        self.name = name
        self.block = block
        self.sums = sums
        self._store = store
        self._size = size
        self._path = folder / name
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        weakref.finalize(self, os.close, self._file)
        os.ftruncate(self._file, size)
        self._state = _map_state(_map_path(folder, name), -(-size // block))
        self._pending: dict[int, Future[None]] = {}
        self._lock = threading.Lock()

    @property
    def is_complete(self) -> bool:
        """Whether all blocks are here."""
        return bool((self._state == HERE).all())

    def fetch_all(self, xxh3: str) -> None:
        """Fetch what is missing of the file.

        Args:
            xxh3: checksum of the whole, which is compared where those of the blocks
                are not known.

        Raises:
            ValueError: it cannot be fetched, or is not what was prepared.
        """
        if self.is_complete:
            return
        if self._size > _LARGE:
            log(f"Fetching {self.name} ({disk_size(self._size)}) from {self._store.url}.")
        for future in self.begin(np.arange(len(self._state))):
            future.result()
        if self.sums is None and hash_file(self._path)[1] != xxh3:
            self._state[:] = MISSING
            raise self._differs()

    def begin(self, blocks: Int64) -> list[Future[None]]:
        """Begin to fetch those blocks that are missing, and return what to wait for.

        Args:
            blocks: int64, ascending.
        """
        missing = blocks[self._state[blocks] != HERE].tolist()
        if not missing:
            return []
        with self._lock:
            # Another thread may have fetched some meanwhile.
            missing = [block for block in missing if self._state[block] != HERE]
            new = [block for block in missing if block not in self._pending]
            for run in _split_runs(new, max(1, _RUN_BYTES // self.block)):
                future = _threads().submit(self._fetch_run, run)
                self._pending |= dict.fromkeys(run, future)
            return list(dict.fromkeys(self._pending[block] for block in missing))

    def _fetch_run(self, run: range) -> None:
        """Fetch adjacent blocks, compare them with their checksums, and write them."""
        try:
            if not self._trust_unsure(run):
                data = self._read_checked(run)
                _write_all(self._file, data, run.start * self.block)
                self._state[run.start : run.stop] = HERE
        finally:
            with self._lock:
                for block in run:
                    del self._pending[block]

    def _trust_unsure(self, run: range) -> bool:
        """Return whether blocks that were written before a restart of the machine are right, and note it."""
        if self.sums is None or (self._state[run.start : run.stop] != UNSURE).any():
            return False
        start = run.start * self.block
        data = os.pread(self._file, min(run.stop * self.block, self._size) - start, start)
        if not self._is_right(run, data):
            return False
        self._state[run.start : run.stop] = HERE
        return True

    def _read_checked(self, run: range) -> bytes:
        start = run.start * self.block
        end = min(run.stop * self.block, self._size)
        for _ in range(_TRIES):
            try:
                data = self._store.read(self.name, start, end)
            except FileNotFoundError:
                raise ValueError(
                    f"{self._store.url}/{self.name} is gone: prepare the dataset again."
                ) from None
            if self._is_right(run, data):
                return data
        raise self._differs()

    def _is_right(self, run: range, data: bytes) -> bool:
        if self.sums is None:
            return True
        return bool((hash_blocks(data, self.block) == self.sums[run.start : run.stop]).all())

    def _differs(self) -> ValueError:
        return ValueError(
            f"{self._store.url}/{self.name} is not what was prepared: prepare the dataset again with --force."
        )


def hash_blocks(data: bytes, block: int) -> Sums:
    """Return the xxh3-64 of each block of some bytes: uint64 [n]."""
    import xxhash

    view = memoryview(data)
    starts = range(0, len(view), block)
    sums = (xxhash.xxh3_64_intdigest(view[start : start + block]) for start in starts)
    return np.fromiter(sums, np.uint64, len(starts))


def _map_path(folder: Path, name: str) -> Path:
    return folder / _BLOCKS / f"{name}.map"


def _map_state(path: Path, count: int) -> npt.NDArray[np.uint8]:
    """Return the state of each block, uint8 [count], kept in a file that all processes share."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not count:
        return np.zeros(0, np.uint8)
    with path.open("ab") as file:
        file.truncate(count)
    return np.memmap(path, np.uint8, "r+", shape=(count,))


def _split_runs(blocks: Sequence[int], most: int) -> Iterator[range]:
    """Yield runs of adjacent blocks, none of more than so many."""
    start = 0
    for number, block in enumerate(blocks):
        is_last = number + 1 == len(blocks) or blocks[number + 1] != block + 1
        if is_last or number + 1 - start == most:
            yield range(blocks[start], block + 1)
            start = number + 1


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        offset += written
        view = view[written:]


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, "fetch")


@dataclass(frozen=True)
class RemoteImages:
    """Where the images of a split lie in the files of a mirror.

    Attributes:
        files: that hold them.
        file: int64 [n], which of `files` an image is in.
        offsets, sizes: int64 [n], in that file, in bytes.
    """

    files: list[SparseFile]
    file: Int64
    offsets: Int64
    sizes: Int64

    @property
    def is_complete(self) -> bool:
        """Whether all blocks of all files are here."""
        return all(file.is_complete for file in self.files)

    def require(self, index: Int64) -> None:
        """Wait until the images of a batch are here.

        Args:
            index: int64 [B], sample ids; -1 in padding rows.

        Raises:
            ValueError: one cannot be fetched, or is not what was prepared.
        """
        for future in self._begin(index):
            future.result()

    def fetch_batches(self, batches: Iterable[tuple[Int64, int]], is_over: threading.Event) -> None:
        """Fetch the images of an epoch in its order, until it is over.

        Args:
            batches: (index, count) of each batch, as `BatchSchedule.batches` has them.
            is_over: set by another thread.
        """
        waiting: list[Future[None]] = []
        for index, _ in batches:
            for start in range(0, len(index), _AHEAD):
                if is_over.is_set():
                    return
                begun = self._begin(index[start : start + _AHEAD])
                for future in waiting:
                    future.exception()  # `require` tries again and raises it
                waiting = begun

    def _begin(self, index: Int64) -> list[Future[None]]:
        index = index[index >= 0]
        futures: list[Future[None]] = []
        for number in np.unique(self.file[index]).tolist():
            rows = index[self.file[index] == number]
            file = self.files[number]
            futures += file.begin(self._list_blocks(rows, file.block))
        return futures

    def _list_blocks(self, rows: Int64, block: int) -> Int64:
        """Return the blocks of some images in one file, ascending, each once."""
        first = self.offsets[rows] // block
        counts = (self.offsets[rows] + self.sizes[rows] - 1) // block - first + 1
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.unique(np.repeat(first, counts) + within)


@contextmanager
def fetch_ahead(
    remote: RemoteImages | None, batches: Iterable[tuple[Int64, int]]
) -> Iterator[None]:
    """Fetch the images of an epoch in the background, in its order, until the context ends.

    Args:
        remote: where they are; None: all are here.
        batches: as for `RemoteImages.fetch_batches`.
    """
    if remote is None or remote.is_complete:
        yield
        return
    is_over = threading.Event()
    arguments = (batches, is_over)
    thread = threading.Thread(
        target=remote.fetch_batches, args=arguments, name="fetch ahead", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def open_images(
    folder: Path, files: Mapping[str, int], file: Int64, offsets: Int64, sizes: Int64
) -> RemoteImages:
    """Return where the images of a split lie in a mirror, to fetch them on demand.

    Args:
        folder: of the mirror.
        files: bytes by name.
        file: int64 [n], which of `files` an image is in.
        offsets: int64 [n], in that file.
        sizes: int64 [n], in bytes.
    """
    mirror = _open_mirror(folder)
    opened = [mirror.file(name, size) for name, size in files.items()]
    return RemoteImages(opened, file, offsets, sizes)
