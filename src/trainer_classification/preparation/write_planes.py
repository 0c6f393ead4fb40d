"""Write the `planes` format."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainer_classification.arrays import Int64, Integers
from trainer_classification.config import PrepareConfig
from trainer_classification.data import planes
from trainer_classification.data.formats import ArrayLayout, SplitShards
from trainer_classification.data.source import Source
from trainer_classification.preparation.assemble import FormatOutputs
from trainer_classification.preparation.format import (
    EncodedImage,
    Format,
    PrepareSpec,
    Regions,
    SourceImage,
)
from trainer_classification.preparation.write_array import lay_out, write_images

_NEUTRAL = 128  # chroma of gray


def options(config: PrepareConfig, layout: ArrayLayout, train_size: int) -> dict[str, Any]:
    """Return the side of the images.

    Raises:
        ValueError: the images keep their size.
    """
    if not layout.resized:
        raise ValueError(
            "--formats planes is for photographs, which are stored resized; these small images keep their size: "
            "--formats array stores them."
        )
    return {"side": layout.planes_side}


def encode(image: SourceImage, spec: PrepareSpec) -> EncodedImage | None:
    """Return the planes; None for an image in color where all others are gray, see `write_array.encode`."""
    length = _image_bytes(spec.layout)
    pixels = image.planes(spec.layout.planes_side)
    if len(pixels) > length:
        return None
    if len(pixels) < length:
        pixels = np.pad(pixels, (0, length - len(pixels)), constant_values=_NEUTRAL)
    return EncodedImage(pixels, region=pixels)


def layout(source: Source, spec: PrepareSpec, rows: Int64) -> Regions:
    """Return where the images of a split will lie."""
    return lay_out(rows, _image_bytes(spec.layout))


def write(shards: SplitShards, outputs: FormatOutputs, rows: Int64, labels: Integers) -> list[str]:
    """Write a split; arguments and result are those of `write_array.write`."""
    path = planes.path(shards.split)
    write_images(shards.folder / path, outputs, rows, _image_bytes(shards.layout))

    return [path]


def room(source: Source, spec: PrepareSpec) -> int:
    """Return the bytes of the shards."""
    return len(source.files) * _image_bytes(spec.layout)


def _image_bytes(layout: ArrayLayout) -> int:
    return planes.image_bytes(layout.planes_side, layout.channels)


PLANES = Format(
    open=planes.open_planes,
    extents=planes.extents,
    encode=encode,
    write=write,
    room=room,
    layout=layout,
    options=options,
    has_array_channels=True,
    sizes_differ=True,
)
