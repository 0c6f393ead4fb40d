"""Find prepared datasets in object storage, and keep mirrors of them on a local disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import xxhash

from trainer_classification.console import disk_size, log
from trainer_classification.data import manifest, mirror
from trainer_classification.data.in_use import exclude_runs
from trainer_classification.data.manifest import Manifest
from trainer_classification.names import safe_component
from trainer_classification.preparation import disk, partial
from trainer_classification.storage import ObjectStore, is_url

CACHE_VARIABLE = "TRAINER_CACHE"  # names the folder of all mirrors


def open_prepared(url: str, dataset: str, image_size: int = 0) -> tuple[Path, Manifest]:
    """Open a prepared dataset in object storage; its images are fetched when they are read.

    Args:
        url: of the dataset, or of the folder that it is in.
        dataset: its name or a path that ends with it; "": the only one.
        image_size: side in px of the images that the network sees; 0: the only one.

    Returns:
        The folder that mirrors it, and its manifest.

    Raises:
        ValueError: there is no such dataset, or there are several; or it is damaged.
    """
    store, content = _find_prepared(ObjectStore(url), dataset, image_size)
    parent, _, name = store.url.rpartition("/")
    folder = _choose_folder(parent, manifest.largest_format(content)) / name
    refresh(folder, store)
    log(f"Reading {store.url}; what is fetched is kept in {folder}.")
    return folder, manifest.read(folder)


def _find_prepared(store: ObjectStore, dataset: str, image_size: int) -> tuple[ObjectStore, bytes]:
    """Return the store of the dataset and its manifest; errors are those of `open_prepared`."""
    content = store.read_if_there(manifest.FILE_NAME)
    if content is not None:
        return store, content
    folders = store.list_folders()
    prefix = f"{safe_component(Path(dataset).name)}-" if dataset else ""
    size = f"-{image_size}px-" if image_size else ""
    fitting = [name for name in folders if name.startswith(prefix) and size in name]
    contents = {name: store.below(name).read_if_there(manifest.FILE_NAME) for name in fitting}
    found = {name: content for name, content in contents.items() if content is not None}
    first = next(iter(found), "")
    if len(found) == 1:
        return store.below(first), found[first]
    if found:
        raise ValueError(
            f"{store.url} holds several prepared datasets that fit: name one of them with --prepared, as "
            f"{store.url}/{first} ({', '.join(found)})."
        )
    wanted = " ".join(filter(None, (dataset, f"at {image_size} px" if image_size else "")))
    raise ValueError(
        f"{store.url} holds no prepared dataset{f' {wanted}' if wanted else ''}: python scripts/prepare.py --dataset "
        f"{dataset or 'NAME'} --out {store.url} makes one ({', '.join(folders) or 'nothing is there'})."
    )


def _choose_folder(url: str, needed: int) -> Path:
    """Return the folder of mirrors on a disk that has room, or on one where others may have to go."""
    try:
        return cache_folder(url, needed)
    except ValueError:
        return cache_folder(url)


def find_store(prepared: str, folder: Path) -> ObjectStore | None:
    """Return where a folder belongs in object storage; None if `prepared` is a local folder."""
    return ObjectStore(f"{prepared.rstrip('/')}/{folder.name}") if is_url(prepared) else None


def cache_folder(url: str, needed: int = 0) -> Path:
    """Return the folder on a local disk that mirrors the prepared datasets below a URL.

    Args:
        url: of the folder of prepared datasets.
        needed: bytes that have to be free.

    Raises:
        ValueError: no disk has room; says how much each has.
    """
    scheme, _, place = url.rstrip("/").partition("://")
    name = f"{scheme}-{xxhash.xxh3_64_hexdigest(place.encode())[:12]}"
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen) / name
    home = Path.home() / ".cache/trainer-classification"
    with suppress(OSError):
        home.mkdir(parents=True, exist_ok=True)
    folder, _ = disk.choose_disk([home, *disk.candidates()], name, needed)
    return folder / name


def make_room(folder: Path, found: Manifest, formats: Collection[str]) -> None:
    """Delete mirrors that were not used for longest, until the rest of one has room; what a run reads stays.

    Args:
        folder: of the mirror.
        found: its manifest.
        formats: that will be read.

    Raises:
        ValueError: there is no room.
    """
    parts = [*formats, "table"]
    sizes = (info.bytes for name, info in found.files.items() if name.partition("/")[0] in parts)
    needed = sum(sizes) - partial.used_bytes(folder / part for part in parts)
    others = [path for path in folder.parent.parent.glob("*/*") if mirror.is_mirror(path)]
    for other in sorted(others, key=mirror.last_use):
        if shutil.disk_usage(folder.parent).free >= needed:
            return
        if other != folder and _delete_if_unused(other):
            log(f"Deleted {other}, a copy of objects, to make room.")
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise ValueError(
            f"Reading {found.dataset} takes {disk_size(needed)} of {folder.parent}, where {disk_size(free)} are free: "
            f"free some, or name a folder on another disk in the variable {CACHE_VARIABLE}."
        )


def _delete_if_unused(folder: Path) -> bool:
    with exclude_runs(folder) as is_unused:
        if is_unused:
            partial.delete(folder)
    return is_unused


def refresh(folder: Path, store: ObjectStore) -> None:
    """Make a local folder agree with the manifest of a dataset in object storage, if there is one.

    A mirror of other files is deleted. A folder that was prepared here and is not in
    the store yet stays.

    Raises:
        ValueError: a run reads what would be deleted.
    """
    content = store.read_if_there(manifest.FILE_NAME)
    with partial.lock(folder):
        here = folder / manifest.FILE_NAME
        if here.is_file() and here.read_bytes() == content:
            if mirror.is_mirror(folder):
                mirror.wake_mirror(folder)
            elif not manifest.is_whole(folder):
                mirror.write_mirror(folder, store, {})  # killed before it was one
            return
        if content is None and not mirror.is_mirror(folder):
            return
        is_unfinished = mirror.is_mirror(folder) and not here.is_file()
        if folder.exists() and not is_unfinished:
            _delete(folder)
        if content is not None:
            digest = store.read_if_there(manifest.DIGEST_NAME)
            files = {} if digest is None else {manifest.DIGEST_NAME: digest}
            mirror.write_mirror(folder, store, files | {manifest.FILE_NAME: content})


def _delete(folder: Path) -> None:
    if not _delete_if_unused(folder):
        raise ValueError(
            f"A run in progress reads {folder}, whose dataset was prepared again: wait until the run has ended."
        )
