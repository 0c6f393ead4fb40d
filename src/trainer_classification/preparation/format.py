"""What a format of prepared images consists of, and what prepare hands to it.

`formats.py` lists the formats. A format names its own files, encodes one image at
a time in the jobs, and writes its shards from what the jobs have left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from trainer_classification.arrays import Int64, Integers, Uint8
from trainer_classification.config import PrepareConfig
from trainer_classification.data.decode import DecodedImage, ImageInfo, LargeJpeg, YCbCrImage, pad
from trainer_classification.data.formats import GRAY_SHIFT, ArrayLayout, Extents, SplitShards
from trainer_classification.data.manifest import Manifest
from trainer_classification.data.source import Source
from trainer_classification.preparation.assemble import FormatOutputs
from trainer_classification.preparation.content_hash import hash_content

NO_FIELDS: np.dtype[np.void] = np.dtype([])


@dataclass(frozen=True)
class PrepareSpec:
    """What is made of each image.

    Attributes:
        layout: of the array.
        formats: those to write, in the order of the registry, each with its
            options as the manifest keeps them.
        gray_shift: bits that gray images of 16 and 32 bits lose.
    """

    layout: ArrayLayout
    formats: dict[str, dict[str, Any]]
    gray_shift: int = GRAY_SHIFT


@dataclass
class SourceImage:
    """One image of the dataset on its way into the shards.

    Attributes:
        data: the bytes of its file.
        info: what the file holds.
        layout: of the array.
        label: index of its class.
        sample: its sample id if every image is good; None if the job has no
            preallocated regions.
        decoded: the image; None if every wanted format keeps the file as it is.
    """

    data: bytes
    info: ImageInfo
    layout: ArrayLayout
    label: int
    sample: int | None
    decoded: DecodedImage | YCbCrImage | LargeJpeg | None

    @cached_property
    def array_pixels(self) -> Uint8:
        """The image as the array has it, except that a gray image may have one channel where the array has three.

        Raises:
            BadImageError: it is larger than the dataset's table says.
        """
        if self.layout.resized:
            return self._image.resize_x_first(self.layout.side)
        return pad(self._image.pixels, self.layout.side)

    def planes(self, side: int) -> Uint8:
        """Return the whole image as Y, Cb and Cr at 4:2:0, see `kernels.planes.store_x_first`."""
        return self._image.resize_to_planes(side)

    @property
    def pixels(self) -> Uint8:
        """The image at its own size: uint8 [H, W, C]."""
        return self._image.pixels

    def resize(self, width: int, height: int) -> Uint8:
        """Return the whole image at another size, antialiased bilinear: uint8 [height, width, C]."""
        return self._image.resize(width, height)

    @property
    def _image(self) -> DecodedImage | YCbCrImage | LargeJpeg:
        assert self.decoded is not None, "a format whose `keeps_file` is true asks for pixels"
        return self.decoded


@dataclass(frozen=True)
class EncodedImage:
    """An image as a format stores it.

    Attributes:
        data: the bytes that a reader of the format finds, of which the checksum
            is taken.
        fields: the values of `Format.fields`.
        region: what goes into its preallocated region; None if nothing does.
        is_original: `data` are the bytes of the original file, which need no
            second copy in a part file.
    """

    data: bytes | Uint8
    fields: tuple[Any, ...] = ()
    region: bytes | Uint8 | None = None
    is_original: bool = False


@dataclass(frozen=True)
class StoredImage:
    """An image as an older prepared folder holds it.

    Attributes:
        data: its bytes there.
        fields: the values of `Format.fields`.
        label: index of its class now.
        sample: as in `SourceImage`.
        file_hash: of the original file, without the zeros at its end.
    """

    data: bytes
    fields: tuple[Any, ...]
    label: int
    sample: int | None
    file_hash: bytes

    @property
    def is_file(self) -> bool:
        """Whether `data` are the bytes of the original file."""
        return hash_content(self.data).rstrip(b"\0") == self.file_hash


@dataclass(frozen=True)
class Regions:
    """Where the images of one split will lie.

    Attributes:
        shard: int64 [n], number of the shard.
        offsets, sizes: int64 [n], in that shard, in bytes.
    """

    shard: Int64
    offsets: Int64
    sizes: Int64


class Shard(Protocol):
    """A shard that any machine can write; it can be pickled."""

    @property
    def path(self) -> str:
        """Its path, relative to the manifest's folder."""

    @property
    def samples(self) -> Int64:
        """The sample ids of its images, ascending: int64 [n]."""

    def write(self, folder: Path, outputs: FormatOutputs) -> Extents:
        """Write it, and return where a reader finds the images, of which `samples` are the rows in `outputs`.

        Args:
            folder: gets the shard at its path.
            outputs: of its images alone, one row for each of `samples`.
        """


def _no_options(config: PrepareConfig, layout: ArrayLayout, train_size: int) -> dict[str, Any]:
    return {}


def _never(info: ImageInfo, spec: PrepareSpec) -> bool:
    return False


def _always(spec: PrepareSpec) -> bool:
    return True


def _store_again(stored: StoredImage) -> EncodedImage:
    return EncodedImage(stored.data, stored.fields, region=stored.data)


@dataclass(frozen=True)
class Format:
    """One format of prepared images.

    Attributes:
        open: (folder, manifest, split) -> the images of a split, for loaders.
        extents: where the reader finds the images of a split: each is compared
            with what the jobs made.
        encode: an image -> how it is stored; None if the format does not hold it.
        write: (split, outputs of the jobs, rows of the split, labels) -> paths of
            the files written, relative to the split's folder.
        room: (source, spec) -> bytes of the shards, about.
        layout: (source, spec, rows of a split) -> where its images will lie.
        sizes_known: (spec) -> whether `layout` can be asked before images are
            decoded.
        keeps_file: (info, spec) -> whether the bytes of such a file are all that
            the format needs of it.
        options: (config, layout, training size) -> the options that the manifest
            keeps.
        fields: what the format notes about each image, a structured dtype; few of
            a dataset should differ.
        reads_originals: its shards are made of the original files, so that
            regions save reading these twice.
        has_array_channels: its images have the channels of the array, which are
            only certain after all are decoded.
        sizes_differ: it stores images at sizes of their own, not the array's.
        restore: an image of an older prepared folder -> how `encode` would store
            it.
        array_pixels: (stored bytes, layout) -> the image as the array has it:
            uint8 [side, side, C]; None: the bytes are not these pixels.
        write_beside: as `write`, but without the shards, which it returns as well;
            None: its shards are written by `write` alone.
    """

    open: Callable[[Path, Manifest, str], Any]
    extents: Callable[[SplitShards], list[Extents]]
    encode: Callable[[SourceImage, PrepareSpec], EncodedImage | None]
    write: Callable[[SplitShards, FormatOutputs, Int64, Integers], list[str]]
    room: Callable[[Source, PrepareSpec], int]
    layout: Callable[[Source, PrepareSpec, Int64], Regions]
    sizes_known: Callable[[PrepareSpec], bool] = _always
    keeps_file: Callable[[ImageInfo, PrepareSpec], bool] = _never
    options: Callable[[PrepareConfig, ArrayLayout, int], dict[str, Any]] = _no_options
    fields: np.dtype[np.void] = NO_FIELDS
    reads_originals: bool = False
    has_array_channels: bool = False
    sizes_differ: bool = False
    restore: Callable[[StoredImage], EncodedImage] = _store_again
    array_pixels: Callable[[bytes, ArrayLayout], Uint8] | None = None
    write_beside: (
        Callable[[SplitShards, FormatOutputs, Int64, Integers], tuple[list[str], list[Shard]]]
        | None
    ) = None
