"""Find the pixels that resize, cut or pad one axis of an image, and their weights, in plain tensor operators.

Exporters of ONNX know an antialiased `Resize`, but OpenVINO and OpenCV compute it
without antialiasing. A resize is a matrix product along each axis, and its
weights come from the sizes alone. Few weights of such a matrix are not zero, so
the outputs are made in blocks, each from a window of the axis.

Positions are whole numbers in fine units instead of fractions of a pixel. A
runtime that computes in bfloat16, as OpenVINO does by default where the CPU can,
rounds fractions to 8 bits but leaves integers alone. The weights that the
trainer's own kernels use are multiples of 1/256, which bfloat16 holds exactly.

OpenCV's dnn has no clamp and absolute value of integers, but their maximum, and
no logic of booleans. Dividends are never negative, so a quotient may be rounded
down or towards zero. It is written `//`: `torch.div` with a rounding mode is exported
as a division of floats.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_ONE = 256  # the kernels' weights are 8-bit fixed point
_FINEST = 1 << 15  # levels of a filter's value where its integers would be too large
_LARGEST = 1 << 30  # of an integer: OpenVINO computes int64 in 32 bits
_BLOCK = 16  # outputs of a block: smaller ones multiply less but copy more


class Taps(NamedTuple):
    """What each output of an axis is a weighted sum of; outputs come in blocks of G.

    Attributes:
        pixels: int64 [blocks, K], of the window of each block.
        weights: float32 [blocks, G, K].
    """

    pixels: Tensor
    weights: Tensor


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


class _Axis(NamedTuple):
    """An axis in whole units: pixel p is at (2 * p + 1) * pixel, output o at first + (2 * o + 1) * step.

    Attributes:
        length: number of pixels.
        size: number of outputs.
        block: outputs of a block.
        pixel: int64 [1].
        first: int64 [1].
        step: int64 [1].
    """

    length: int
    size: int
    block: int
    pixel: Tensor
    first: Tensor
    step: Tensor


def number(count: int) -> Tensor:
    """Return int64 [1]; a size of the example becomes a number of the graph."""
    return torch.zeros(1, dtype=torch.int64) + count


def photo_taps(length: int, size: int, is_shrunk: Tensor) -> Taps:
    """Return the taps by which `prepare` resizes a whole axis.

    Args:
        length: of the axis in px.
        size: number of outputs.
        is_shrunk: bool [1], Pillow's Hamming filter. Else that of
            `kernels.resize.whole_x_first`, a triangle of 0.75 of its width where it
            reduces.
    """
    axis = _whole_axis(length, size, _block(size))
    width = torch.maximum(2 * axis.step, 2 * axis.pixel)
    pixels, distances = _find_window(axis, width)
    sharp_width = torch.maximum(6 * axis.step, 8 * axis.pixel)
    sharp = _fixed_point(_positive(sharp_width - 4 * distances))
    return Taps(pixels, torch.where(is_shrunk, _hamming(distances, width), sharp))


def kept_taps(length: int, size: int, is_larger: Tensor) -> Taps:
    """Return the taps of an axis of an image that keeps its size, in one block.

    Args:
        length: of the axis in px.
        size: number of outputs.
        is_larger: bool [1], Pillow's bilinear resize. Else the pixels are put into
            the middle, with zeros around them.
    """
    resized = _whole_axis(length, size, size)
    one = number(1)
    before = _positive(resized.pixel - resized.step) // 2
    axis = resized._replace(
        pixel=torch.where(is_larger, resized.pixel, one),
        first=torch.where(is_larger, 0 * one, -2 * before),
        step=torch.where(is_larger, resized.step, one),
    )
    width = torch.where(is_larger, torch.maximum(2 * axis.step, 2 * axis.pixel), one)
    pixels, distances = _find_window(axis, width)
    values = _positive(width - distances)
    total = torch.maximum(values.sum(2, keepdim=True), one)  # of padding: no pixel
    return Taps(pixels, values.float() / total.float())


def box_taps(side: int, size: int, box: Box) -> Taps:
    """Return the taps by which `augment.cpu` shows a box of the original out of a prepared image.

    Args:
        side: of the prepared image in px, which holds the whole original.
        size: side in px of the view.
        box: the part of the axis.
    """
    # Units are 1 / (2 * whole * size) prepared pixels.
    unit = box.whole // (_LARGEST // (2 * side * size)) + 1
    start = box.start // unit
    length = box.length // unit
    whole = box.whole // unit

    axis = _Axis(side, size, _block(size), size * whole, 2 * side * size * start, side * length)
    width = torch.maximum(2 * axis.step, 2 * axis.pixel)
    pixels, distances = _find_window(axis, width)
    values = _positive(width - distances) // (width // _FINEST + 1)
    return Taps(pixels, _fixed_point(values))


def _whole_axis(length: int, size: int, block: int) -> _Axis:
    """Return an axis that is resized whole, in units of 1 / (2 * size) px."""
    return _Axis(length, size, block, number(size), number(0), number(length))


def _block(size: int) -> int:
    """Return the largest number of outputs of which blocks fill a size."""
    return max(count for count in range(1, _BLOCK + 1) if size % count == 0)


def _find_window(axis: _Axis, width: Tensor) -> tuple[Tensor, Tensor]:
    """Find the pixels that the outputs of each block may need.

    Args:
        axis: its step is at most length / size pixels.
        width: int64 [1], the distance in units from which on a pixel has no weight.

    Returns:
        Pixels, int64 [blocks, K], and how far each is from each output of its block
        in units, int64 [blocks, G, K].
    """
    outputs = torch.arange(axis.size).reshape(-1, axis.block, 1)
    centers = axis.first + (2 * outputs + 1) * axis.step
    longest = (axis.block + 1) * axis.length // axis.size + 3
    count = torch.sym_min(axis.length, longest)  # type: ignore[no-untyped-call]
    first = _positive(centers[:, 0] - width + axis.pixel) // (2 * axis.pixel)
    pixels = torch.minimum(first, number(axis.length - count)) + torch.arange(count)

    positions = ((2 * pixels + 1) * axis.pixel)[:, None]
    return pixels, torch.maximum(positions - centers, centers - positions)


def _positive(values: Tensor) -> Tensor:
    """Return the larger of integers and 0."""
    return torch.maximum(values, number(0))


def _hamming(distances: Tensor, width: Tensor) -> Tensor:
    """Return the weights of Pillow's Hamming filter."""
    share = distances.float() / width.float()
    angle = math.pi * share.clamp(1e-4, 1.0)  # not 0, by which the sine is divided
    values = torch.sin(angle) / angle * (0.54 + 0.46 * torch.cos(angle))
    return values / values.sum(2, keepdim=True)


def _fixed_point(values: Tensor) -> Tensor:
    """Turn a filter's values, int64 [blocks, G, K], into multiples of 1/256 as `kernels.resize.triangle_weights` does.

    The largest weight takes the rounding error of all, so that they sum to 1.
    """
    total = values.sum(2, keepdim=True)
    weights = (2 * _ONE * values + total) // (2 * total)
    is_largest = torch.arange(values.shape[2]) == values.argmax(2, keepdim=True)
    remainder = _ONE - weights.sum(2, keepdim=True)
    return (weights + is_largest.long() * remainder).float() / _ONE
