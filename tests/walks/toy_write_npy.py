"""Step 2 of the walk, `preparation/write_npy.py`: the writer of the toy format."""

import numpy as np
import toy_npy

from trainer_classification.preparation.assemble import gather
from trainer_classification.preparation.format import EncodedImage, Format, Regions


def encode(image, spec):
    pixels = image.array_pixels
    if pixels.shape[2] > spec.layout.channels:
        return None
    pixels = np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], spec.layout.channels)))
    return EncodedImage(pixels, (int(pixels.max()),), region=pixels)


def layout(source, spec, rows):
    sizes = np.full(len(rows), spec.layout.image_bytes)
    return Regions(np.zeros_like(rows), toy_npy.offsets(len(rows), spec.layout), sizes)


def write(shards, outputs, rows, labels):
    target = shards.folder / toy_npy.path(shards.split)
    gather(outputs, rows, target, toy_npy.offsets(len(rows), shards.layout))
    with target.open("r+b") as file:
        header = file.write(toy_npy.header(len(rows), shards.layout))
        file.truncate(header + len(rows) * shards.layout.image_bytes)
    brightest = target.with_suffix(".brightest.txt")
    brightest.write_text(str(outputs.result.fields[rows]["brightest"].max()))
    return [toy_npy.path(shards.split), f"npy/{brightest.name}"]


def room(source, spec):
    return len(source.files) * spec.layout.image_bytes


NPY = Format(
    open=toy_npy.open_npy,
    extents=toy_npy.extents,
    encode=encode,
    write=write,
    room=room,
    layout=layout,
    options=lambda config, layout, train_size: {"made_for": train_size},
    fields=np.dtype([("brightest", np.uint8)]),
    has_array_channels=True,
)
