"""Define the DALI pipeline of the dali loader, once for CPU and GPU.

On a CPU, decoded pixels equal Pillow's to the bit. Resizing uses the same
triangular filter with other rounding. Copies and mirroring are exact. What
follows them is done by `augment.device.finish`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer_classification.loaders.pixel_boxes import pixel_boxes
from trainer_classification.plan import Draws, Policy

Array = npt.NDArray[Any]
Source = Callable[[], Sequence[Any]]

_PREFETCH = 2  # batches that DALI works on while one is in use


@dataclass(frozen=True)
class Graph:
    """Say what the pipeline does to an image.

    Attributes:
        encoded: the images are encoded files, otherwise pixels [S, S, C].
        resizes: a box is cropped and resized, otherwise the image is copied.
        channels: 1 or 3.
        size: side T of the batches in px.
        policy: the augmentation that the draws are for.
        gpu: decode and augment on the GPU.
    """

    encoded: bool
    resizes: bool
    channels: int
    size: int
    policy: Policy
    gpu: bool

    @property
    def inputs(self) -> list[str]:
        """Return the names of the source's inputs for each batch, in order.

        See `make_inputs`.
        """
        used = {
            "image": True,
            "start": self.encoded or self.resizes,
            "extent": self.encoded or self.resizes,
            "shift": self.policy.crop == "shift",
            "flip": self.policy.flip != "none",
        }
        return [name for name, wanted in used.items() if wanted]


def build(
    graph: Graph, source: Source, batch_size: int, threads: int, device_id: int | None
) -> Any:
    """Define the pipeline, without building it yet.

    Its output is uint8 [B, T, T, C].

    Args:
        graph: what the pipeline does.
        source: returns the inputs of the next batch. StopIteration ends an epoch.
        batch_size: rows B.
        threads: DALI's threads.
        device_id: the GPU. None: the CPU only.
    """
    from nvidia.dali import Pipeline, fn

    pipeline = Pipeline(
        batch_size, threads, device_id, prefetch_queue_depth=_PREFETCH, set_affinity=False
    )
    names = graph.inputs
    layouts = ["HWC" if name == "image" and not graph.encoded else "" for name in names]
    with pipeline:
        # Nothing is copied: the files are views of the memory map, and
        # `DaliLoader` keeps the other inputs alive.
        nodes = fn.external_source(
            source=source,
            num_outputs=len(names),
            batch=True,
            no_copy=True,
            parallel=False,
            layout=layouts,
        )
        inputs = dict(zip(names, nodes, strict=True))
        images = _augment(graph, _crop(graph, inputs), inputs)
        pipeline.set_outputs(images)

    return pipeline


def _crop(graph: Graph, inputs: dict[str, Any]) -> Any:
    """Crop the drawn box of each image and resize it to T x T px, antialiased with Pillow's triangular filter."""
    from nvidia.dali import fn, types

    images = inputs["image"]
    filters = {"size": [graph.size] * 2, "interp_type": types.INTERP_LINEAR, "antialias": True}
    if graph.encoded:
        images = fn.decoders.image_slice(
            images,
            start=inputs["start"],
            shape=inputs["extent"],
            axis_names="WH",
            device="mixed" if graph.gpu else "cpu",
            output_type=types.GRAY if graph.channels == 1 else types.RGB,
            jpeg_fancy_upsampling=True,  # as Pillow does; always on for the CPU
        )
        return fn.resize(images, **filters)
    images = images.gpu() if graph.gpu else images
    if graph.resizes:
        return fn.resize(
            images,
            roi_start=inputs["start"],
            roi_end=inputs["extent"],
            roi_relative=True,
            **filters,
        )
    return images


def _augment(graph: Graph, images: Any, inputs: dict[str, Any]) -> Any:
    """Shift and mirror the images as drawn."""
    from nvidia.dali import fn

    if "shift" in inputs:
        images = _shift(images, inputs["shift"], graph.size, graph.policy)
    if "flip" in inputs:
        images = fn.flip(images, horizontal=inputs["flip"])
    return images


def _shift(images: Any, shift: Any, side: int, policy: Policy) -> Any:
    """Shift images so that output pixel (y, x) is input pixel (y + dy, x + dx).

    `shift` includes `policy.shift` where the padding is "reflect", since the
    padded image starts that much earlier.
    """
    from nvidia.dali import fn

    if policy.pad == "zero":
        return fn.slice(
            images,
            start=shift,
            shape=[side] * 2,
            axes=[0, 1],
            out_of_bounds_policy="pad",
            fill_values=0,
        )
    for axis in (0, 1) if policy.shift else ():
        before = fn.slice(images, start=[1], shape=[policy.shift], axes=[axis])
        after = fn.slice(images, start=[side - 1 - policy.shift], shape=[policy.shift], axes=[axis])
        before = fn.flip(before, vertical=axis == 0, horizontal=axis == 1)
        after = fn.flip(after, vertical=axis == 0, horizontal=axis == 1)
        images = fn.cat(before, images, after, axis=axis)

    return fn.slice(images, start=shift, shape=[side] * 2, axes=[0, 1])


def make_inputs(graph: Graph, draws: Draws, sizes: npt.NDArray[np.int32]) -> dict[str, Array]:
    """Convert the draws of B images to the inputs of a graph, other than the images.

    Args:
        graph: the graph that takes them.
        draws: B rows.
        sizes: int32 [B, 2], width and height of the originals in px.

    Returns:
        start, extent: for encoded images int32 [B, 2], x, y and w, h of the box
            in px of the original. For pixels float32 [B, 2], the first and last
            corner of the box, y, x, as fractions.
        shift: int32 [B, 2], y, x.
        flip: int32 [B].
    """
    policy = graph.policy
    inputs: dict[str, Array] = {"flip": draws.flip.astype(np.int32)}
    if graph.encoded:
        boxes = pixel_boxes(draws.box, sizes)
        inputs |= {"start": boxes[:, :2], "extent": boxes[:, 2:]}
    elif graph.resizes:
        start = draws.box[:, 1::-1]
        inputs |= {"start": start, "extent": np.minimum(start + draws.box[:, :1:-1], np.float32(1))}
    if policy.crop == "shift":
        inputs["shift"] = draws.shift.astype(np.int32) + (
            policy.shift if policy.pad == "reflect" else 0
        )
    return {name: np.ascontiguousarray(values) for name, values in inputs.items()}
