"""Write the `beton` format."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trainer_classification.arrays import Int64, Integers, Uint8
from trainer_classification.config import PrepareConfig
from trainer_classification.data import beton
from trainer_classification.data.beton import JPEG, RAW
from trainer_classification.data.decode import ImageInfo
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

# Bound of the longer side, in training sizes: even small crops are not enlarged
# much.
_SIDE_PER_TRAIN_SIZE = 2.5
# Images longer than this many times their shorter side are bounded as if they
# were no longer, because crops are cut from the shorter side: it keeps 5/6 of the
# training size.
_PANORAMA = 3
_LONGEST_SIDE = 65_500  # px: the limit of libjpeg; FFCV's format itself has 16 bits for a side


@dataclass(frozen=True)
class BetonOptions:
    """How images are stored.

    Attributes:
        mode: "jpg" or "raw".
        side: bound in px of the longer side; larger images are resized,
            antialiased. 0: none. Of panoramas it bounds three times the shorter
            side.
        quality: of JPEGs that have to be encoded again.
    """

    mode: Literal["jpg", "raw"]
    side: int = 0
    quality: int = 90


@dataclass(frozen=True)
class Payload:
    """An image as a beton holds it.

    Attributes:
        mode: JPEG or RAW.
        width, height: in px.
        data: the bytes of a JPEG, or raw uint8 [H, W, 3].
    """

    mode: int
    width: int
    height: int
    data: bytes | Uint8


def options(config: PrepareConfig, layout: ArrayLayout, train_size: int) -> dict[str, Any]:
    """Return the fields of `BetonOptions` that the user's options mean for these images."""
    mode = config.beton_mode
    if mode == "auto":
        mode = "jpg" if layout.resized else "raw"

    side = 0
    if layout.resized:
        side = config.beton_side or round(_SIDE_PER_TRAIN_SIZE * train_size)
    return dataclasses.asdict(BetonOptions(mode, max(0, side)))


def _options_of(spec: PrepareSpec) -> BetonOptions:
    return BetonOptions(**spec.formats["beton"])


def raw_payload(pixels: Uint8) -> Payload:
    """Return the pixels as they are, gray as RGB because FFCV knows no gray: uint8 [H, W, 1] or [H, W, 3]."""
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return Payload(RAW, pixels.shape[1], pixels.shape[0], np.ascontiguousarray(pixels))


def payload_of(image: SourceImage, options: BetonOptions) -> Payload:
    """Return an image as the options say; a JPEG that fits keeps its bytes."""
    info = image.info
    if keeps_bytes(info, options):
        return Payload(JPEG, info.width, info.height, image.data)

    width, height = bounded_size(info.width, info.height, options)
    fits = (width, height) == (info.width, info.height)
    raw = raw_payload(image.pixels if fits else image.resize(width, height))
    if options.mode == "raw":
        return raw

    import simplejpeg  # not needed where every image keeps its bytes or is stored raw

    # Full chroma costs a fifth more bytes, and loses a third as much of what
    # never was subsampled.
    sampling = "420" if info.subsampled or info.channels == 1 else "444"

    return Payload(
        JPEG, width, height, simplejpeg.encode_jpeg(raw.data, options.quality, "RGB", sampling)
    )


def keeps_bytes(info: ImageInfo, options: BetonOptions) -> bool:
    """Return whether a beton holds the file itself."""
    fits = bounded_size(info.width, info.height, options) == (info.width, info.height)
    return (
        options.mode == "jpg"
        and fits
        and info.kind == "jpeg"
        and info.upright
        and info.channels == 3
    )


def bounded_size(width: int, height: int, options: BetonOptions) -> tuple[int, int]:
    """Return width and height, in px, at which an image is stored."""
    longest = max(width, height)
    scale = _LONGEST_SIDE / longest
    if options.side:
        scale = min(scale, options.side / min(longest, _PANORAMA * min(width, height)))
    if scale >= 1:
        return width, height
    return max(1, round(width * scale)), max(1, round(height * scale))


def encode(image: SourceImage, spec: PrepareSpec) -> EncodedImage:
    """Return an image as the options say; small ones raw as in the array, so that all engines shift alike."""
    payload = (
        payload_of(image, _options_of(spec))
        if spec.layout.resized
        else raw_payload(image.array_pixels)
    )
    return EncodedImage(
        payload.data, (payload.mode, payload.width, payload.height), region=payload.data
    )


def keeps_file(info: ImageInfo, spec: PrepareSpec) -> bool:
    """Return whether the beton holds the file itself."""
    return spec.layout.resized and keeps_bytes(info, _options_of(spec))


def sizes_known(spec: PrepareSpec) -> bool:
    """Return whether images are stored raw: nobody knows the size of a JPEG before it is encoded."""
    return _options_of(spec).mode == "raw" or not spec.layout.resized


def layout(source: Source, spec: PrepareSpec, rows: Int64) -> Regions:
    """Return where the raw images of a split will lie."""
    options = _options_of(spec)
    shown = source.sizes[rows] if spec.layout.resized else np.full((len(rows), 2), spec.layout.side)
    images = np.array(
        [(RAW, *bounded_size(width, height, options)) for width, height in shown.tolist()]
    )
    sizes = images[:, 1] * images[:, 2] * 3
    offsets = beton.layout(images, sizes, source.labels[rows]).offsets
    return Regions(np.zeros_like(rows), offsets, sizes)


def write(shards: SplitShards, outputs: FormatOutputs, rows: Int64, labels: Integers) -> list[str]:
    """Write a split. Arguments and result are those of `write_array.write`."""
    path = beton.path(shards.split)
    noted = outputs.result.fields[rows]
    images = np.stack([noted["mode"], noted["width"], noted["height"]], axis=1)
    layout = beton.layout(images, outputs.result.bytes[rows], labels)

    gather(outputs, rows, shards.folder / path, layout.offsets)
    with (shards.folder / path).open("r+b") as file:
        file.write(layout.head)
        file.seek(layout.table_offset)
        file.write(layout.table)
        file.truncate()

    return [path]


def write_beton(path: Path, payloads: Sequence[Payload], labels: Int64) -> None:
    """Write a beton from payloads in memory, one for each label."""
    contents = [bytes(payload.data) for payload in payloads]
    images = np.array([(payload.mode, payload.width, payload.height) for payload in payloads])
    layout = beton.layout(
        images, np.array([len(content) for content in contents], np.int64), labels
    )

    with path.open("wb") as file:
        file.write(layout.head)
        for offset, content in zip(layout.offsets.tolist(), contents, strict=True):
            file.seek(offset)
            file.write(content)
        file.seek(layout.table_offset)
        file.write(layout.table)


def room(source: Source, spec: PrepareSpec) -> int:
    """Return the bytes of the shards, about."""
    if _options_of(spec).mode == "raw":
        return len(source.files) * spec.layout.side**2 * 3
    return int(source.bytes.sum())


BETON = Format(
    open=beton.open_split,
    extents=beton.extents,
    encode=encode,
    write=write,
    room=room,
    layout=layout,
    sizes_known=sizes_known,
    keeps_file=keeps_file,
    options=options,
    sizes_differ=True,
    fields=np.dtype([("mode", np.int32), ("width", np.int32), ("height", np.int32)]),
)
