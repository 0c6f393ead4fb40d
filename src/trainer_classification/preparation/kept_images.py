"""Read images out of an older prepared folder, so that a job copies them instead of decoding them again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from trainer_classification.arrays import Int64, Structured
from trainer_classification.preparation.content_hash import HASH

# What is known of an image, whatever its formats: columns of `JobResult`.
IMAGE = np.dtype(
    [
        ("hash", HASH),
        ("size", np.int32, (2,)),
        ("gray", np.bool_),
        ("content", "S12"),
        ("peak", np.int64),
        ("has_more", np.bool_),
    ]
)
# Where an image lies in one format, and the xxh3-64 of its bytes there.
EXTENT = np.dtype(
    [("file", np.int32), ("offset", np.int64), ("bytes", np.int64), ("checksum", np.uint64)]
)


@dataclass(frozen=True)
class KeptFormat:
    """Where the images lie in one format.

    Attributes:
        files: paths of the shards, as text: see `PreallocatedRegions.files`.
        extents: EXTENT [m], of which `file` is a number in `files`.
        fields: structured [m], of `Format.fields`.
    """

    files: Sequence[str]
    extents: Structured
    fields: Structured

    def select(self, rows: Int64) -> KeptFormat:
        """Return some of the images, and of the files only those that have them."""
        extents = self.extents[rows]
        used, numbers = np.unique(extents["file"], return_inverse=True)
        extents["file"] = numbers
        return KeptFormat(
            [self.files[number] for number in used.tolist()], extents, self.fields[rows]
        )


@dataclass(frozen=True)
class KeptImages:
    """Images that an older prepared folder holds.

    Attributes:
        row: int64 [n], for each image of the dataset its row below; -1: it has to
            be decoded.
        images: IMAGE [m].
        formats: by the name of the format.
    """

    row: Int64
    images: Structured
    formats: dict[str, KeptFormat]

    def select(self, rows: slice) -> KeptImages:
        """Return what is known of some images of the dataset."""
        row = self.row[rows]
        is_kept = row >= 0
        used = row[is_kept]
        numbers = np.full(len(row), -1)
        numbers[is_kept] = np.arange(len(used))
        formats = {name: kept.select(used) for name, kept in self.formats.items()}
        return KeptImages(numbers, self.images[used], formats)


class KeptReader:
    """Read the bytes of kept images, and compare them with their checksums.

    A context manager. One file of each format is open at a time.
    """

    def __init__(self, kept: KeptImages | None) -> None:
        self._kept = kept
        self._open: dict[str, tuple[int, int]] = {}  # format -> number of the file, descriptor

    def __enter__(self) -> KeptReader:
        return self

    def __exit__(self, *_: object) -> None:
        for number_and_descriptor in self._open.values():
            os.close(number_and_descriptor[1])

    def read(self, number: int) -> dict[str, bytes] | None:
        """Return the bytes of an image in each format.

        Args:
            number: of the image in its job.

        Returns:
            None for an image that has to be decoded: it is not kept, or its bytes
            are not those that were written.
        """
        if self._kept is None or self._kept.row[number] < 0:
            return None
        row = int(self._kept.row[number])
        contents = {}
        for name, kept in self._kept.formats.items():
            extent: Any = kept.extents[row]
            size = int(extent["bytes"])
            try:
                descriptor = self._descriptor(name, kept.files, int(extent["file"]))
                content = os.pread(descriptor, size, int(extent["offset"]))
            except OSError:  # the folder was deleted meanwhile, or its disk fails
                return None
            if len(content) != size or xxhash.xxh3_64_intdigest(content) != extent["checksum"]:
                return None
            contents[name] = content
        return contents

    def _descriptor(self, name: str, files: Sequence[str], file: int) -> int:
        number, descriptor = self._open.get(name, (-1, -1))
        if number == file:
            return descriptor
        if number >= 0:
            del self._open[name]
            os.close(descriptor)
        self._open[name] = (file, os.open(files[file], os.O_RDONLY | os.O_CLOEXEC))
        return self._open[name][1]
