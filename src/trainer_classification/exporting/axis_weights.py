"""Make the matrices that resize, cut or pad one axis of an image, from the image's size, in plain tensor operators.

Exporters of ONNX know an antialiased `Resize`, but OpenVINO and OpenCV compute it
without antialiasing. A resize is a matrix product along each axis, and its
weights come from the sizes alone.

Positions are whole numbers in fine units instead of fractions of a pixel. A
runtime that computes in bfloat16, as OpenVINO does by default where the CPU can,
rounds fractions to 8 bits but leaves integers alone. The weights that the
trainer's own kernels use are multiples of 1/256, which bfloat16 holds exactly.

An axis is int64 [n], its pixels 0 to n - 1. A matrix is float32 [outputs, n].
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_ONE = 256  # the kernels' weights are 8-bit fixed point
_FINEST = 1 << 15  # levels of a filter's value where its integers would be too large
_LARGEST = 1 << 30  # of an integer: OpenVINO computes int64 in 32 bits


class Box(NamedTuple):
    """A part of an axis, in px of the original image.

    Attributes:
        start: int64 [1].
        length: int64 [1].
        whole: int64 [1], length of the whole axis.
    """

    start: Tensor
    length: Tensor
    whole: Tensor


def length_of(axis: Tensor) -> Tensor:
    """Return n as int64 [1]: a number of the graph, where `len` would be one of the example.

    A slice of the last pixel would do, but OpenVINO 2026.4 does not know that it
    has one element, and takes height and width for equal once both meet it.
    """
    return axis.amax(0, keepdim=True) + 1


def sharp_triangle(axis: Tensor, size: int) -> Tensor:
    """Return what `kernels.resize.whole_x_first` multiplies by: a triangle of 0.75 of its width, where it reduces."""
    width = torch.clamp(6 * length_of(axis), min=8 * size)
    return _fixed_point(torch.clamp(width - 4 * _distances(axis, size), min=0), axis)


def triangle(axis: Tensor, size: int) -> Tensor:
    """Return what Pillow's bilinear resize multiplies by."""
    width = torch.clamp(2 * length_of(axis), min=2 * size)
    values = torch.clamp(width - _distances(axis, size), min=0).float()
    return values / values.sum(1, keepdim=True)


def hamming(axis: Tensor, size: int) -> Tensor:
    """Return what Pillow's Hamming resize multiplies by."""
    width = torch.clamp(2 * length_of(axis), min=2 * size)
    share = _distances(axis, size).float() / width.float()
    angle = math.pi * share.clamp(1e-4, 1.0)  # not 0, by which the sine is divided
    values = torch.sin(angle) / angle * (0.54 + 0.46 * torch.cos(angle))
    return values / values.sum(1, keepdim=True)


def padding(axis: Tensor, size: int) -> Tensor:
    """Return a matrix that puts an axis of up to `size` pixels into the middle of `size`, with zeros around it."""
    before = (size - length_of(axis)) // 2
    return (torch.arange(size)[:, None] - before == axis[None, :]).float()


def box_triangle(side: int, size: int, box: Box) -> Tensor:
    """Return what `augment.cpu` multiplies a prepared image's axis by, to show a box of the original.

    Args:
        side: of the prepared image in px, which holds the whole original.
        size: side in px of the view.
        box: the part of the axis.

    Returns:
        float32 [size, side].
    """
    # Positions are in units of 1 / (2 * whole * size) prepared pixels.
    unit = box.whole // (_LARGEST // (2 * side * size)) + 1
    start = box.start // unit
    length = box.length // unit
    whole = box.whole // unit

    axis = torch.arange(side)
    centers = side * (2 * size * start + (2 * torch.arange(size) + 1) * length)
    distances = (((2 * axis + 1) * (whole * size))[None, :] - centers[:, None]).abs()
    width = torch.maximum(2 * side * length, 2 * size * whole)
    values = torch.clamp(width - distances, min=0)

    return _fixed_point(values // (width // _FINEST + 1), axis)


def _distances(axis: Tensor, size: int) -> Tensor:
    """Return how far each pixel is from the center of each output, in units of 1 / (2 * size) px: int64 [size, n]."""
    pixels = (2 * axis + 1) * size
    centers = (2 * torch.arange(size) + 1) * length_of(axis)
    return (pixels[None, :] - centers[:, None]).abs()


def _fixed_point(values: Tensor, axis: Tensor) -> Tensor:
    """Turn a filter's values, int64 [outputs, n], into multiples of 1/256 as `kernels.resize.triangle_weights` does.

    The largest weight takes the rounding error of all, so that they sum to 1.
    """
    total = values.sum(1, keepdim=True)
    weights = (2 * _ONE * values + total) // (2 * total)
    is_largest = axis[None, :] == values.argmax(1, keepdim=True)
    remainder = _ONE - weights.sum(1, keepdim=True)
    return (weights + is_largest * remainder).float() / _ONE
