"""Write the `array` format."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from trainer_classification.arrays import Int64, Integers, Uint8
from trainer_classification.data import array
from trainer_classification.data.formats import ArrayLayout, SplitShards
from trainer_classification.data.source import Source
from trainer_classification.preparation.assemble import FormatOutputs, gather
from trainer_classification.preparation.format import (
    EncodedImage,
    Format,
    PrepareSpec,
    Regions,
    SourceImage,
)


def encode(image: SourceImage, spec: PrepareSpec) -> EncodedImage | None:
    """Return the pixels; None for an image in color where the array is gray.

    Such an array is of no use: once all images are known, prepare starts again
    with three channels.
    """
    pixels = image.array_pixels
    channels = pixels.shape[2]
    if channels > spec.layout.channels:
        return None
    if channels < spec.layout.channels:
        pixels = np.repeat(pixels, 3, axis=2)
    return EncodedImage(pixels, region=pixels)


def array_pixels(data: bytes, layout: ArrayLayout) -> Uint8:
    """Return stored bytes as the image that they are: uint8 [side, side, C], a copy that can be written to."""
    shape = (layout.side, layout.side, layout.channels)
    return np.frombuffer(data, np.uint8).reshape(shape).copy()


def layout(source: Source, spec: PrepareSpec, rows: Int64) -> Regions:
    """Return where the images of a split will lie."""
    return lay_out(rows, spec.layout.image_bytes)


def lay_out(rows: Int64, image_bytes: int) -> Regions:
    """Return where images of one size will lie, one after another."""
    return Regions(
        shard=np.zeros_like(rows),
        offsets=array.offsets(len(rows), image_bytes),
        sizes=np.full_like(rows, image_bytes),
    )


def write(shards: SplitShards, outputs: FormatOutputs, rows: Int64, labels: Integers) -> list[str]:
    """Write a split.

    Args:
        shards: the split.
        outputs: of all jobs.
        rows: int64 [n], the row in `outputs` of each sample.
        labels: integers [n]; the table holds them.

    Returns:
        Paths of the files written, relative to the split's folder.
    """
    path = array.path(shards.split)
    write_images(shards.folder / path, outputs, rows, shards.layout.image_bytes)

    return [path]


def write_images(path: Path, outputs: FormatOutputs, rows: Int64, image_bytes: int) -> None:
    """Write images of one size, one after another; `outputs` and `rows` are those of `write`."""
    gather(outputs, rows, path, array.offsets(len(rows), image_bytes))
    os.truncate(path, len(rows) * image_bytes)


def room(source: Source, spec: PrepareSpec) -> int:
    """Return the bytes of the shards."""
    return len(source.files) * spec.layout.image_bytes


ARRAY = Format(
    open=array.open_array,
    extents=array.extents,
    encode=encode,
    write=write,
    room=room,
    layout=layout,
    has_array_channels=True,
    array_pixels=array_pixels,
)
