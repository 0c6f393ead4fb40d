"""Read a prepared dataset in object storage through a folder on a local disk that mirrors it.

Each file of the mirror has its full size from the start, and takes room only for the
blocks that were fetched: readers map it into memory as a local one. Before an image
is read, its blocks have to be here; `check_files` (`manifest.py`) and `RemoteImages`
(`remote_images.py`) see to that.

    .origin.json        the URL, and the boot of the machine in which blocks were written
    .blocks/<file>.map  one byte per block (`sparse_file.py`); a killed run goes on from it
    .blocks/checksums   copy of `checksums.npz`

`checksums.npz` lies beside the manifest in the store: bytes per block and xxh3-64 of
each block of each file. Without it, files are fetched whole and compared with the
manifest.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from trainer_classification.data.sparse_file import (
    BLOCKS_FOLDER,
    HERE,
    UNSURE,
    SparseFile,
    Sums,
    map_path,
)
from trainer_classification.files import write_atomically
from trainer_classification.storage import ObjectStore

CHECKSUMS = "checksums.npz"
_ORIGIN = ".origin.json"
_BLOCK_BYTES = 1 << 18  # of a block, about: an image of 280 px in the array has 235,200 bytes


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
    (folder / BLOCKS_FOLDER).mkdir(exist_ok=True)
    checksums = store.read_if_there(CHECKSUMS)
    if checksums is not None:
        write_atomically(folder / BLOCKS_FOLDER / "checksums", checksums)
    for name in sorted(files, key=lambda name: name.endswith(".json")):  # the manifest last
        write_atomically(folder / name, files[name])


def adopt(folder: Path, store: ObjectStore, checksums: bytes) -> None:
    """Make a folder, all of whose files are in object storage now, the mirror of these.

    Args:
        folder: that was prepared here; it may lack files.
        store: of the dataset.
        checksums: content of `checksums.npz`.
    """
    for name, sums in unpack_checksums(checksums)[1].items():
        if not (folder / name).is_file():
            continue
        path = map_path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([HERE]) * len(sums))
    (folder / BLOCKS_FOLDER / "checksums").write_bytes(checksums)
    _write_origin(folder, store.url)


def last_use(folder: Path) -> int:
    """Return when a mirror was made or woken, in nanoseconds."""
    return (folder / _ORIGIN).stat().st_mtime_ns


def wake_mirror(folder: Path) -> None:
    """Note that a mirror is used, and doubt what was fetched before the machine was started."""
    origin = json.loads((folder / _ORIGIN).read_text(encoding="utf-8"))
    if origin["boot"] != _boot_id():
        for path in (folder / BLOCKS_FOLDER).rglob("*.map"):
            state = np.fromfile(path, np.uint8)
            write_atomically(
                path, np.where(state == HERE, UNSURE, state).astype(np.uint8).tobytes()
            )
    _write_origin(folder, origin["url"])


def forget_origin(folder: Path) -> None:
    """Make a mirror, of which everything is fetched, an ordinary prepared folder."""
    (folder / _ORIGIN).unlink()
    shutil.rmtree(folder / BLOCKS_FOLDER)


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
    mirror = open_mirror(folder)
    for name, (size, xxh3) in files.items():
        file = mirror.file(name, size)
        if not on_demand or file.sums is None:
            file.fetch_all(xxh3)


@lru_cache(maxsize=8)
def _open(folder: str, version: tuple[int, int]) -> Mirror:
    return Mirror(Path(folder))


def open_mirror(folder: Path) -> Mirror:
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
        checksums = folder / BLOCKS_FOLDER / "checksums"
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
