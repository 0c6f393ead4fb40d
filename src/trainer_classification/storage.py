"""Read and write object storage: the one place where URLs become objects.

fsspec and the library of a store are imported when a URL is used, and only then.
All objects are written by one request, or by parts that become one object at their
end: whoever reads a name finds it whole or not at all.

https://filesystem-spec.readthedocs.io/en/latest/, https://s3fs.readthedocs.io/en/latest/
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from trainer_classification.extras import import_from_extra

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # one letter: a drive of Windows
LOCAL = "file://"
# Scheme -> module of fsspec's file system, and the extra or package that has it.
_MODULES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "memory": "fsspec"}
_WAITS = (
    0.3,
    1.0,
    3.0,
)  # seconds before each further try; s3fs itself tries lost connections again
Result = TypeVar("Result")


def is_url(path: str) -> bool:
    """Return whether an option names objects in a store, and no local folder."""
    return URL.match(path) is not None


def local_path(path: str) -> str:
    """Return the path that a file:// URL means; anything else as it is."""
    return path.removeprefix(LOCAL) if path.startswith(f"{LOCAL}/") else path


def check_url(option: str, url: str) -> None:
    """Check that a URL names a store that can be used.

    Args:
        option: name of the option that has it.
        url: as the user gave it.

    Raises:
        ValueError: its scheme is unknown, or it names no bucket.
    """
    scheme, _, place = url.partition("://")
    if scheme not in _MODULES:
        known = ", ".join(f"{name}://" for name in ("file", "s3", "gs", "az"))
        raise ValueError(
            f"{option} is {url!r}, whose scheme is unknown: use a local folder, or one of {known}."
        )
    if not place.strip("/"):
        raise ValueError(
            f"{option} is {url!r}, but has to name a bucket, as {scheme}://BUCKET/PATH."
        )


class ObjectStore:
    """The objects whose names begin with a URL.

    Every method tries a few times again, and then raises a ValueError that names the
    object.

    Args:
        url: such as s3://bucket/folder.

    Raises:
        ValueError: the library of its scheme is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._system = _open_system(url.partition("://")[0])
        self._root = str(self._system._strip_protocol(self.url)).rstrip("/")

    def below(self, name: str) -> ObjectStore:
        """Return the store of the objects below a name."""
        return ObjectStore(f"{self.url}/{name}")

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return an object, or its bytes from `start` to before `end`.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it cannot be read.
        """
        path = self._path(name)

        def read() -> bytes:
            # By name: s3fs has another argument in second place than fsspec says.
            data: bytes = self._system.cat_file(path, start=start, end=end)
            if start is not None and end is not None and len(data) != end - start:
                raise OSError(f"{len(data)} bytes came instead of {end - start}")
            return data

        return self._try("read", name, read)

    def read_if_there(self, name: str) -> bytes | None:
        """Return an object; None if there is none."""
        try:
            return self.read(name)
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a small object."""
        self._try("written", name, lambda: self._system.pipe_file(self._path(name), content))

    def upload(self, file: Path, name: str) -> None:
        """Write a local file as an object, and check its size there."""
        path = self._path(name)
        size = file.stat().st_size

        def upload() -> None:
            self._system.put_file(str(file), path)
            found = self._system.info(path)["size"]
            if found != size:
                raise OSError(f"{found} bytes arrived instead of {size}")

        self._try("written", name, upload)

    @property
    def can_copy(self) -> bool:
        """Whether `copy` ends when the copy is there; adlfs may only have begun then, as Azure copies on its own."""
        return not self.url.startswith("az://")

    def copy(self, source: str, name: str, size: int) -> None:
        """Write a copy of an object of the same store, and check its size; the store moves the bytes.

        Args:
            source: URL of the object.
            name: of the copy.
            size: in bytes.
        """
        path = self._path(name)

        def copy() -> None:
            self._system.cp_file(self._system._strip_protocol(source), path)
            found = self._system.info(path)["size"]
            if found != size:
                raise OSError(f"{found} bytes arrived instead of {size}")

        self._try("written", name, copy)

    def download(self, name: str, file: Path) -> None:
        """Write an object to a local file, and check its size.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it cannot be read.
        """
        path = self._path(name)

        def download() -> None:
            self._system.get_file(path, str(file))
            size = self._system.info(path)["size"]
            if file.stat().st_size != size:
                raise OSError(f"{file.stat().st_size} bytes came instead of {size}")

        self._try("read", name, download)

    def list_folders(self) -> list[str]:
        """Return the first part of the names of all objects that have several."""

        def list_entries() -> list[dict[str, Any]]:
            try:
                return list(self._system.ls(self._root, detail=True))
            except FileNotFoundError:
                return []

        entries = self._try("listed", "", list_entries)
        return sorted(
            entry["name"].rstrip("/").rpartition("/")[2]
            for entry in entries
            if entry["type"] == "directory"
        )

    def list_names(self) -> list[str]:
        """Return the names of all objects."""

        def find() -> list[str]:
            try:
                return list(self._system.find(self._root))
            except FileNotFoundError:
                return []

        prefix = self._root + "/"
        found = self._try("listed", "", find)
        return sorted(name.removeprefix(prefix) for name in found)

    def delete(self, name: str) -> None:
        """Delete an object, if it is there."""

        def delete() -> None:
            with suppress(FileNotFoundError):
                self._system.rm_file(self._path(name))

        self._try("deleted", name, delete)

    def delete_all(self) -> None:
        """Delete all objects."""
        paths = [self._path(name) for name in self.list_names()]
        if paths:
            self._try("deleted", "", lambda: self._system.rm(paths))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _try(self, done: str, name: str, action: Callable[[], Result]) -> Result:
        """Return the result of an action, which is tried again after errors that may pass."""
        for wait in (*_WAITS, None):
            try:
                return action()
            except FileNotFoundError as error:
                if done == "read":
                    raise
                problem: Exception = error
            except PermissionError as error:
                problem = error
                break
            except Exception as error:  # every library has errors of its own
                problem = error
            if wait is not None:
                time.sleep(wait)
        where = f"{self.url}/{name}" if name else self.url
        reason = str(problem) or type(problem).__name__
        raise ValueError(f"{where} cannot be {done}: {reason}") from problem


@cache
def _open_system(scheme: str) -> Any:
    """Return fsspec's file system of a scheme.

    Listings are not kept: s3fs would not see what others write after the first.
    """
    fsspec = import_from_extra("fsspec", "storage")
    module = _MODULES[scheme]
    if module in ("gcsfs", "adlfs"):
        try:
            return fsspec.filesystem(scheme, use_listings_cache=False)
        except ImportError:
            raise ValueError(
                f"{scheme}:// needs the package {module}: pip install {module}"
            ) from None
    import_from_extra(module, "storage")
    return fsspec.filesystem(scheme, use_listings_cache=False)
