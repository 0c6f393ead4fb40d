"""Fetch an object block by block into a local file, which processes of this machine share.

`.blocks/<file>.map` in the folder has one byte per block: MISSING, HERE or UNSURE. A
process that fetches blocks holds a lock of their bytes there: no other fetches them
meanwhile, and if it is killed, another one does.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer_classification.arrays import Bool, Int64
from trainer_classification.console import disk_size, log
from trainer_classification.data.block_runs import choose_blocks, split_runs, window_of
from trainer_classification.files import hash_file
from trainer_classification.storage import ObjectStore

BLOCKS_FOLDER = ".blocks"
_THREADS = 16  # requests at once, of a process
_PIECE = 8 << 20  # bytes that are read at once to compute checksums, about
_TRIES = 3  # of a block whose checksum is wrong
_LARGE = 64 << 20  # bytes from which on a line tells that a file is fetched
_POLL_SECONDS = 0.005  # between looks at what another process fetches

Sums = npt.NDArray[np.uint64]

MISSING = 0
HERE = 1
UNSURE = 2  # written before the machine was started again: a power failure may have taken the data, not the note


class SparseFile:
    """A file of a mirror, whose blocks are fetched when they are needed.

    Args:
        store: of the dataset.
        folder: of the mirror.
        name: of the file, relative to it.
        size: in bytes.
        block: bytes of a block.
        sums: uint64 [n], xxh3-64 of each block; None: not known.

    Attributes:
        wanted: bool [n], the blocks that this machine reads in the epoch in
            progress; None: there is none.
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
        self.wanted: Bool | None = None
        self._store = store
        self._size = size
        self._path = folder / name
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        weakref.finalize(self, os.close, self._file)
        os.ftruncate(self._file, size)
        state = map_path(folder, name)
        self._state = _map_state(state, -(-size // block))
        self._locks = os.open(state, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        weakref.finalize(self, os.close, self._locks)
        self._pending: dict[int, Future[None]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of blocks."""
        return len(self._state)

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
        require([(self, np.arange(len(self)))])
        if self.sums is None and hash_file(self._path)[1] != xxh3:
            self._state[:] = MISSING
            raise self._differs()

    def has(self, blocks: Int64) -> bool:
        """Return whether some blocks are here."""
        return bool((self._state[blocks] == HERE).all())

    def begin(self, blocks: Int64, is_exact: bool = False) -> list[Future[None]]:
        """Begin to fetch those blocks that are missing, and return what to wait for.

        That is nothing for blocks which another process fetches.

        Args:
            blocks: int64, ascending.
            is_exact: see `choose_blocks`.
        """
        missing = blocks[self._state[blocks] != HERE].tolist()
        if not missing:
            return []
        with self._lock:
            new = [block for block in missing if block not in self._pending]
            for run in self._choose(new, is_exact):
                for claimed in self._claim(run):
                    future = _threads().submit(self._fetch_run, claimed)
                    self._pending |= dict.fromkeys(claimed, future)
            begun = (self._pending.get(block) for block in missing)
            return list(dict.fromkeys(future for future in begun if future is not None))

    def _choose(self, new: list[int], is_exact: bool) -> list[range]:
        """Return the runs to fetch for some blocks, ascending, of which none is on its way."""
        runs: list[range] = []
        window = window_of(self.block)
        for number, group in groupby(new, lambda block: block // window):
            start = number * window
            state = self._state[start : start + window].copy()
            needed = np.zeros(len(state), bool)
            needed[[block - start for block in group]] = True
            free = state != HERE
            free &= [start + place not in self._pending for place in range(len(state))]
            wanted = needed if self.wanted is None else self.wanted[start : start + window]
            chosen = np.flatnonzero(choose_blocks(needed, free, wanted, self.block, is_exact))
            runs += split_runs((start + chosen).tolist(), state[chosen].tolist())
        return runs

    def _claim(self, run: range) -> Iterator[range]:
        """Lock adjacent blocks against other processes, and yield what these neither fetch nor have fetched."""
        if self._lock_blocks(run):
            locked = list(run)
        else:
            locked = [block for block in run if self._lock_blocks(range(block, block + 1))]
        missing = []
        for block in locked:
            if self._state[block] == HERE:
                self._unlock_blocks(range(block, block + 1))
            else:
                missing.append(block)
        yield from split_runs(missing, self._state[missing].tolist())

    def _lock_blocks(self, run: range) -> bool:
        try:
            fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, len(run), run.start)
        except (BlockingIOError, PermissionError):  # one of both, says POSIX
            return False
        except OSError:  # a file system without locks: several processes write the same bytes
            pass
        return True

    def _unlock_blocks(self, run: range) -> None:
        with suppress(OSError):
            fcntl.lockf(self._locks, fcntl.LOCK_UN, len(run), run.start)

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
                self._unlock_blocks(run)

    def _trust_unsure(self, run: range) -> bool:
        """Return whether blocks that were written before a restart of the machine are right, and note it.

        Args:
            run: blocks that are in one state.
        """
        if self.sums is None or self._state[run.start] != UNSURE:
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
            f"{self._store.url}/{self.name} is not what was prepared: prepare the dataset again with "
            f"prepare.py --force."
        )


def hash_blocks(data: bytes, block: int) -> Sums:
    """Return the xxh3-64 of each block of some bytes: uint64 [n]."""
    import xxhash

    view = memoryview(data)
    starts = range(0, len(view), block)
    sums = (xxhash.xxh3_64_intdigest(view[start : start + block]) for start in starts)
    return np.fromiter(sums, np.uint64, len(starts))


def hash_file_blocks(path: Path, block: int) -> tuple[str, Sums]:
    """Return the xxh3-128 of a file in hex digits, and the xxh3-64 of each of its blocks: uint64 [n]."""
    import xxhash

    piece = block * max(1, _PIECE // block)
    state = xxhash.xxh3_128()
    sums = [np.zeros(0, np.uint64)]
    with path.open("rb") as file:
        while data := file.read(piece):
            state.update(data)
            sums.append(hash_blocks(data, block))
    return state.hexdigest(), np.concatenate(sums)


def require(parts: Sequence[tuple[SparseFile, Int64]]) -> None:
    """Wait until blocks of some files are here.

    Args:
        parts: files, and the blocks of each: int64, ascending.

    Raises:
        ValueError: one cannot be fetched, or is not what was prepared.
    """
    while not all(file.has(blocks) for file, blocks in parts):
        futures = [future for file, blocks in parts for future in file.begin(blocks)]
        for future in futures:
            future.result()
        if not futures:
            time.sleep(_POLL_SECONDS)  # another process fetches what is missing


def map_path(folder: Path, name: str) -> Path:
    """Return where the states of a file's blocks are."""
    return folder / BLOCKS_FOLDER / f"{name}.map"


def _map_state(path: Path, count: int) -> npt.NDArray[np.uint8]:
    """Return the state of each block, uint8 [count], kept in a file that all processes share."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not count:
        return np.zeros(0, np.uint8)
    with path.open("ab") as file:
        file.truncate(count)
    return np.memmap(path, np.uint8, "r+", shape=(count,))


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        offset += written
        view = view[written:]


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, "fetch")
