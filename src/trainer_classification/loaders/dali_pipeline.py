"""What the dali loader has DALI do: one definition for CPU and GPU.

On a CPU decoded pixels are those of Pillow to the bit; resizing has its triangular filter and other rounding; copies,
mirroring and blanked squares are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer_classification.loaders.pixel_boxes import cutout_boxes, pixel_boxes
from trainer_classification.plan import Draws, Policy

Array = npt.NDArray[Any]
Source = Callable[[], Sequence[Any]]

_AHEAD = 2  # batches that DALI works on while one is in use


@dataclass(frozen=True)
class Graph:
    """What the pipeline does to an image.

    Attributes:
        encoded: the images are files; else pixels [S, S, C].
        resizes: a box is cut out and resized; else only copied.
        channels: 1 or 3.
        size: side T in px of the batches.
        policy: what the draws mean.
        gpu: decode and augment there.
    """

    encoded: bool
    resizes: bool
    channels: int
    size: int
    policy: Policy
    gpu: bool

    @property
    def inputs(self) -> list[str]:
        """What the source gives for each batch, in this order: see `inputs_of`."""
        used = {
            "image": True,
            "start": self.encoded or self.resizes,
            "extent": self.encoded or self.resizes,
            "shift": self.policy.crop == "shift",
            "flip": self.policy.flip != "none",
            "blank_start": self.policy.cutout > 0,
            "blank_extent": self.policy.cutout > 0,
        }
        return [name for name, wanted in used.items() if wanted]


def build(graph: Graph, source: Source, batch_size: int, threads: int, device_id: int | None) -> Any:
    """The pipeline, not yet built: uint8 [B, T, T, C].

    Args:
        graph: what it does.
        source: gives the inputs of the next batch; StopIteration ends an epoch.
        batch_size: rows, B.
        threads: of DALI.
        device_id: the GPU; None: the CPU alone.
    """
    from nvidia.dali import Pipeline, fn

    pipeline = Pipeline(batch_size, threads, device_id, prefetch_queue_depth=_AHEAD, set_affinity=False)
    names = graph.inputs
    layouts = ["HWC" if name == "image" and not graph.encoded else "" for name in names]
    with pipeline:
        # Nothing is copied: the files are views of the memory map, and `DaliLoader` keeps the rest until it is used.
        nodes = fn.external_source(
            source=source, num_outputs=len(names), batch=True, no_copy=True, parallel=False, layout=layouts
        )
        given = dict(zip(names, nodes, strict=True))
        images = _augmented(graph, _cropped(graph, given), given)
        pipeline.set_outputs(images)
    return pipeline


def _cropped(graph: Graph, given: dict[str, Any]) -> Any:
    """The drawn box of each image as T x T px, antialiased with Pillow's triangular filter."""
    from nvidia.dali import fn, types

    images = given["image"]
    filters = {"size": [graph.size] * 2, "interp_type": types.INTERP_LINEAR, "antialias": True}
    if graph.encoded:
        images = fn.decoders.image_slice(
            images,
            start=given["start"],
            shape=given["extent"],
            axis_names="WH",
            device="mixed" if graph.gpu else "cpu",
            output_type=types.GRAY if graph.channels == 1 else types.RGB,
            jpeg_fancy_upsampling=True,  # as Pillow; on the CPU it always is
        )
        return fn.resize(images, **filters)
    images = images.gpu() if graph.gpu else images
    if graph.resizes:
        return fn.resize(images, roi_start=given["start"], roi_end=given["extent"], roi_relative=True, **filters)
    return images


def _augmented(graph: Graph, images: Any, given: dict[str, Any]) -> Any:
    from nvidia.dali import fn

    policy = graph.policy
    if "shift" in given:
        images = _shifted(images, given["shift"], graph.size, policy)
    if "flip" in given:
        images = fn.flip(images, horizontal=given["flip"])
    if "blank_start" in given:
        images = fn.erase(
            images,
            anchor=given["blank_start"],
            shape=given["blank_extent"],
            axis_names="HW",
            fill_value=float(policy.fill),
        )
    return images


def _shifted(images: Any, shift: Any, side: int, policy: Policy) -> Any:
    """Output pixel (y, x) is input pixel (y + dy, x + dx). `shift` has `policy.shift` added where pad is "reflect"."""
    from nvidia.dali import fn

    if policy.pad == "zero":
        return fn.slice(images, start=shift, shape=[side] * 2, axes=[0, 1], out_of_bounds_policy="pad", fill_values=0)
    for axis in (0, 1) if policy.shift else ():
        before = fn.slice(images, start=[1], shape=[policy.shift], axes=[axis])
        after = fn.slice(images, start=[side - 1 - policy.shift], shape=[policy.shift], axes=[axis])
        before, after = (fn.flip(part, vertical=axis == 0, horizontal=axis == 1) for part in (before, after))
        images = fn.cat(before, images, after, axis=axis)
    return fn.slice(images, start=shift, shape=[side] * 2, axes=[0, 1])


def inputs_of(graph: Graph, draws: Draws, sizes: npt.NDArray[np.int32]) -> dict[str, Array]:
    """Everything a graph may ask for besides the images, for B of them, each as it is said in `Draws`.

    Args:
        graph: that asks.
        draws: B rows.
        sizes: int32 [B, 2], width and height of the originals in px.

    Returns:
        start, extent: int32 [B, 2], x, y and w, h of the box in px of the original; for pixels float32, the box's first
            and last corner, y, x, as fractions.
        shift: int32 [B, 2], y, x. flip: int32 [B].
        blank_start, blank_extent: float32 [B, 2], y, x in px.
    """
    policy = graph.policy
    given: dict[str, Array] = {"flip": draws.flip.astype(np.int32)}
    if graph.encoded:
        boxes = pixel_boxes(draws.box, sizes)
        given |= {"start": boxes[:, :2], "extent": boxes[:, 2:]}
    elif graph.resizes:
        start = draws.box[:, 1::-1]
        given |= {"start": start, "extent": np.minimum(start + draws.box[:, :1:-1], np.float32(1))}
    if policy.crop == "shift":
        given["shift"] = draws.shift.astype(np.int32) + (policy.shift if policy.pad == "reflect" else 0)
    if policy.cutout:
        blank = cutout_boxes(draws.cutout, graph.size, policy.cutout).astype(np.float32)
        given |= {"blank_start": blank[:, :2], "blank_extent": blank[:, 2:]}
    return {name: np.ascontiguousarray(values) for name, values in given.items()}
