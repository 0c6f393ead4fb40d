"""Hold the names of very many files: in one buffer, since a Python string takes 50 bytes beside its text."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from itertools import islice, pairwise
from typing import Any, BinaryIO, SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from trainer_classification.arrays import Int64

_AT_ONCE = 8192  # names that are strings at the same time
_BYTES_AT_ONCE = 1 << 18  # of a JSON text
_Offsets = npt.NDArray[np.integer[Any]]
_CODE = ("utf-8", "surrogatepass")  # what names of no valid Unicode come back from, too


class FileNames(Sequence[str]):
    """Names, or paths, of n files. They cannot be changed.

    A name becomes a string when it is asked for. A slice shares the buffer, but is
    pickled with its own part only.

    Args:
        content: the names, one after another, as UTF-8.
        offsets: [n + 1], where each begins, and where the last one ends: of `_add_up`.
        folder: joined before each name that is no absolute path.
    """

    __slots__ = ("_content", "_folder", "_offsets")

    def __init__(self, content: bytes, offsets: _Offsets, folder: str = "") -> None:
        self._content = content
        self._offsets = offsets
        self._folder = folder

    @classmethod
    def of(cls, names: Iterable[str]) -> FileNames:
        """Copy names, of which few need to exist at the same time."""
        if isinstance(names, FileNames) and not names._folder:
            return names
        contents = BytesIO()
        lengths = []
        rest = iter(names)
        while block := list(islice(rest, _AT_ONCE)):
            content = "".join(block).encode(*_CODE)
            contents.write(content)
            texts = block if content.isascii() else [name.encode(*_CODE) for name in block]
            lengths.append(np.fromiter(map(len, texts), np.uint32, len(block)))
        return cls(contents.getvalue(), _add_up(lengths))

    @classmethod
    def join(cls, parts: Iterable[FileNames]) -> FileNames:
        """Return the names of several, one after another; none has a folder."""
        contents = BytesIO()
        lengths = []
        for part in parts:
            contents.write(part._own_content())
            lengths.append(np.diff(part._offsets))
        return cls(contents.getvalue(), _add_up(lengths))

    def below(self, folder: str | os.PathLike[str]) -> FileNames:
        """Return the paths of files whose names are relative to a folder."""
        return FileNames(self._content, self._offsets, os.fspath(folder))

    def take(self, rows: Int64) -> FileNames:
        """Return some of the names, in the order of `rows`: int64 [m]."""
        content = self._content
        contents = BytesIO()
        lengths = []
        for start in range(0, len(rows), _AT_ONCE):
            mine = rows[start : start + _AT_ONCE]
            begins = self._offsets[mine]
            ends = self._offsets[mine + 1]
            lengths.append(ends - begins)

            # Names that follow each other are copied together.
            gaps = np.flatnonzero(begins[1:] != ends[:-1])
            firsts = begins[np.append(0, gaps + 1)].tolist()
            lasts = ends[np.append(gaps, len(mine) - 1)].tolist()
            runs = zip(firsts, lasts, strict=True)
            contents.write(b"".join([content[begin:end] for begin, end in runs]))

        return FileNames(contents.getvalue(), _add_up(lengths), self._folder)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, row: SupportsIndex) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> FileNames: ...

    def __getitem__(self, row: SupportsIndex | slice) -> str | FileNames:
        if isinstance(row, slice):
            start, stop, step = row.indices(len(self))
            if step != 1:
                return self.take(np.arange(start, stop, step))
            return FileNames(
                self._content, self._offsets[start : max(start, stop) + 1], self._folder
            )
        count = len(self)
        number = operator.index(row)
        if not -count <= number < count:
            raise IndexError(f"there are {count} names, and no row {number}")
        number %= count
        return self._decode(self._offsets[number : number + 2])[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self._decode(self._offsets[start : start + _AT_ONCE + 1])

    def _decode(self, offsets: _Offsets) -> list[str]:
        """Return the names between offsets that follow each other."""
        edges = (offsets - offsets[0]).tolist()
        content = self._content[int(offsets[0]) : int(offsets[-1])]
        if content.isascii():
            text = content.decode("ascii")
            names = [text[start:end] for start, end in pairwise(edges)]
        else:
            names = [content[start:end].decode(*_CODE) for start, end in pairwise(edges)]
        if self._folder:
            names = [os.path.join(self._folder, name) for name in names]
        return names

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FileNames | list | tuple):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3])) + (", ..." if len(self) > 3 else "")
        return f"<{len(self)} names: {shown}>"

    def __reduce__(self) -> tuple[Any, ...]:
        offsets = self._offsets - self._offsets[0]
        return FileNames, (self._own_content(), offsets, self._folder)

    def _own_content(self) -> bytes:
        """Return the part of the buffer that has these names."""
        return self._content[int(self._offsets[0]) : int(self._offsets[-1])]


def _add_up(lengths: Sequence[_Offsets]) -> _Offsets:
    """Return the offsets of texts that follow each other, by their lengths: uint32 where these suffice, else int64."""
    total = sum(int(some.sum(dtype=np.int64)) for some in lengths)
    count = sum(map(len, lengths))
    offsets: _Offsets
    offsets = np.zeros(count + 1, np.int64 if total > np.iinfo(np.uint32).max else np.uint32)
    start = 0
    for some in lengths:
        end = start + len(some)
        np.cumsum(some, out=offsets[start + 1 : end + 1])
        offsets[start + 1 : end + 1] += offsets[start]
        start = end
    return offsets


def write_names(file: BinaryIO, names: Sequence[str]) -> None:
    """Write `json.dumps(names, indent=0)`, with few of the names as strings at the same time."""
    file.write(b"[")
    for start in range(0, len(names), _AT_ONCE):
        some = list(names[start : start + _AT_ONCE])
        file.write(b",\n" if start else b"\n")
        file.write(json.dumps(some, indent=0)[2:-2].encode())
    file.write(b"\n]" if names else b"]")


def read_names(content: bytes) -> FileNames:
    """Return the names of a JSON list, with few of them as strings at the same time if each has a line of its own.

    Raises:
        ValueError: it is no list of strings.
    """
    return FileNames.join(map(FileNames.of, _parse_names(content)))


def _parse_names(content: bytes) -> Iterator[list[str]]:
    content = content.strip()
    if not content.startswith(b"[") or not content.endswith(b"]"):
        raise ValueError("the names are no list")
    start = 1
    end = len(content) - 1
    while start < end:
        # JSON has line breaks between strings only.
        stop = content.find(b",\n", min(start + _BYTES_AT_ONCE, end), end)
        stop = end if stop < 0 else stop
        names = json.loads(b"[%b]" % content[start:stop])
        if not set(map(type, names)) <= {str}:
            raise ValueError("not all names are text")
        yield names
        start = stop + 1
