"""Antialiased bilinear resizing of a box of an image: Pillow's `resize(box=...)` in 16-bit integers.

Two passes of weighted sums over contiguous bytes, with a transpose by pixel between them, so that both passes are the
same vector code. Images are 2-D here: rows of the outer axis, each holding the inner axis' pixels of `channels` bytes.
The result lies with its axes swapped, which is what images stored x first, and preparing those, want.
"""

from __future__ import annotations

from collections import namedtuple

import numpy as np
from numba import njit, uint8, uint16, uint32

from trainer_classification.kernels.vector import (
    PIXELS,
    SUM,
    TILE,
    fetch,
    sum_row,
    sum_row_of,
    transpose_pixels,
    transpose_tile,
)

TAPS = 17  # most taps of a pass: boxes of up to 8 times the output
_ONE = 256  # weights are 8-bit fixed point: a sum of 255 * weights, rounded, just fits 16 bits

# Arrays that `resize` works in: taps of both axes, images between the passes, and what `look_ahead` says.
Scratch = namedtuple("Scratch", "outer_at outer_weights inner_at inner_weights rows columns ahead")


@njit(nogil=True, cache=True)
def scratch_for(inner_side, outer_size, inner_size, channels):  # type: ignore[no-untyped-def]
    """Scratch for images of up to `inner_side` pixels a row, and results of up to inner_size x outer_size."""
    size, longest = max(outer_size, inner_size), max(inner_side, outer_size, inner_size)
    return Scratch(
        np.empty(outer_size, np.int64),
        np.empty((outer_size, TAPS), np.uint16),
        np.empty(inner_size, np.int64),
        np.empty((inner_size, TAPS), np.uint16),
        np.empty((size, longest * channels), np.uint8),
        np.empty((inner_side, outer_size * channels), np.uint8),
        np.zeros(4, np.int64),
    )


@njit(nogil=True, cache=True)
def look_ahead(image, side, channels, outer, inner, scratch):  # type: ignore[no-untyped-def]
    """Say which box comes next: the `resize` before it brings it to the cache, a few rows with each row it makes.

    Images in random order would else be waited for, half the time of a crop; all at once, memory is no faster.

    Args:
        image: address of the image, uint8 [side, side * channels]; 0: none comes next.
        side: its px.
        channels, outer, inner: as of `resize`.
        scratch: of the `resize` before it.
    """
    low, left = int(outer[0]), int(inner[0])
    high, right = min(side, int(outer[0] + outer[1]) + 2), min(side, int(inner[0] + inner[1]) + 2)
    step = side * channels
    scratch.ahead[0] = image + low * step + left * channels
    scratch.ahead[1] = step
    scratch.ahead[2] = (right - left) * channels
    scratch.ahead[3] = high - low if image else 0


@njit(nogil=True, cache=True)
def resize(image, channels, outer, inner, scratch, out, width=1.0):  # type: ignore[no-untyped-def]
    """A box of an image with its axes swapped.

    Args:
        image: uint8 [outer side, inner side * channels].
        channels: bytes of a pixel.
        outer, inner: (start, length, mirrored) of the box on each axis, in px; 8 times the result at most.
        scratch: see `scratch_for`.
        out: uint8 [inner size, outer size * channels], written.
        width: of the filter, as of `triangle`.
    """
    outer_size, inner_size = out.shape[1] // channels, len(out)
    outer_at, inner_at = scratch.outer_at[:outer_size], scratch.inner_at[:inner_size]
    outer_taps = triangle(outer, len(image), outer_at, scratch.outer_weights, width)
    inner_taps = triangle(inner, image.shape[1] // channels, inner_at, scratch.inner_weights, width)
    low = min(inner_at[0], inner_at[-1])
    high = max(inner_at[0], inner_at[-1]) + inner_taps
    ahead, step, each, count = scratch.ahead
    first, second = (ahead, step, each, count // 2), (ahead + count // 2 * step, step, each, count - count // 2)
    bounds = low * channels, high * channels
    _weighted_rows(image, outer_at, scratch.outer_weights, outer_taps, bounds, scratch.rows, first)
    transpose(scratch.rows, scratch.columns, low, high, outer_size, channels)
    bounds = 0, outer_size * channels
    _weighted_rows(scratch.columns, inner_at, scratch.inner_weights, inner_taps, bounds, out, second)


@njit(nogil=True, cache=True)
def resize_upright(image, channels, outer, inner, scratch, out):  # type: ignore[no-untyped-def]
    """As `resize`, but out is [outer size, inner size * channels]: one transpose more."""
    outer_size, inner_size = len(out), out.shape[1] // channels
    swapped = scratch.rows[:inner_size, : outer_size * channels]
    resize(image, channels, outer, inner, scratch, swapped)
    transpose(swapped, out, 0, outer_size, inner_size, channels)


@njit(nogil=True, cache=True)
def whole(image, width, height):  # type: ignore[no-untyped-def]
    """The whole image at another size: uint8 [H, W, C] -> [height, width, C]."""
    channels = image.shape[2]
    out = np.empty((height, width * channels), np.uint8)
    swapped = whole_x_first(image, width, height).reshape(width, height * channels)
    transpose(swapped, out, 0, height, width, channels)
    return out.reshape(height, width, channels)


@njit(nogil=True, cache=True)
def whole_x_first(image, width, height, filter_width=1.0):  # type: ignore[no-untyped-def]
    """As `whole`, with x before y: uint8 [H, W, C] -> [width, height, C]."""
    rows, columns, channels = image.shape
    out = np.empty((width, height * channels), np.uint8)
    scratch = scratch_for(columns, height, width, channels)
    flat, down, across = (
        image.reshape(rows, columns * channels),
        (0.0, float(rows), False),
        (0.0, float(columns), False),
    )
    resize(flat, channels, down, across, scratch, out, filter_width)
    return out.reshape(width, height, channels)


@njit(nogil=True, cache=True)
def sums(image):  # type: ignore[no-untyped-def]
    """Sums of the values and of their squares in each channel of an image, uint8 [H, W, C]: int64 [2, C]."""
    rows, width, channels = image.shape
    assert rows <= 1 << 16  # so that 32 bits hold a column's squares
    total, squares = np.zeros(width * channels, np.uint32), np.zeros(width * channels, np.uint32)
    for y in range(rows):
        _add_row(image[y].reshape(-1), total, squares)
    out = np.zeros((2, channels), np.int64)
    for at in range(width * channels):
        out[0, at % channels] += total[at]
        out[1, at % channels] += squares[at]
    return out


@njit(nogil=True, cache=True)
def _add_row(row, total, squares):  # type: ignore[no-untyped-def]
    for at in range(len(row)):
        value = uint32(row[at])
        total[at] += value
        squares[at] += value * value


@njit(nogil=True, cache=True)
def triangle(box, side, at, weights, width=1.0):  # type: ignore[no-untyped-def]
    """Taps of an axis, as Pillow's `precompute_coeffs` for its bilinear (triangle) filter.

    Writes for each output pixel the first input pixel and 8-bit weights that sum to 256, and returns how many taps
    there are: 2 while the box, times the width, is no larger than the output, 3 while at most 1.5 times as large.

    Args:
        box: (start, length, mirrored) in px.
        side: px of this axis.
        at: int64 [size], written.
        weights: uint16 [size, TAPS], written.
        width: of the filter where it shrinks; 1: Pillow's. Less is sharper, with a little aliasing.
    """
    support = max(box[1] / len(at) * width, 1.0)
    if support == 1.0 and side > 1:
        _two_taps(box, side, at, weights)
        return 2
    taps = min(3 if support <= 1.5 else int(np.ceil(2 * support)) + 1, side, weights.shape[1])
    if taps == 3:
        _taps(box, side, support, 3, at, weights)  # a constant, so that its loops are unrolled
    else:
        _taps(box, side, support, taps, at, weights)
    return taps


@njit(nogil=True, inline="always")
def _taps(box, side, support, taps, at, weights):  # type: ignore[no-untyped-def]
    """`triangle` for a number of taps."""
    (start, length, mirrored), size = box, len(at)
    scale = length / size
    slope = 1.0 / support
    for o in range(size):
        centre = start + (o + 0.5) * scale
        first = min(max(int(centre - support + 0.5), 0), side - taps)
        total = 0.0
        for k in range(taps):
            total += _tap(first + k, centre, slope)
        to, left, largest, most, share = size - 1 - o if mirrored else o, _ONE, 0, 0.0, _ONE / total
        for k in range(taps):
            raw = _tap(first + k, centre, slope)
            weight = int(raw * share + 0.5)
            weights[to, k] = weight
            left -= weight
            largest = k if raw > most else largest
            most = max(raw, most)
        weights[to, largest] += left
        at[to] = first


@njit(nogil=True, inline="always")
def _tap(pixel, centre, slope):  # type: ignore[no-untyped-def]
    """The filter's value at a pixel."""
    return max(0.0, 1.0 - abs(pixel + 0.5 - centre) * slope)


@njit(nogil=True, cache=True)
def _two_taps(box, side, at, weights):  # type: ignore[no-untyped-def]
    """`triangle` where the filter is as narrow as it gets, which makes it linear interpolation of two pixels."""
    (start, length, mirrored), size = box, len(at)
    scale = length / size
    for o in range(size):
        place = min(max(start + (o + 0.5) * scale - 0.5, 0.0), side - 1.0)
        first = min(int(place), side - 2)
        share = place - first
        less = int(min(share, 1.0 - share) * _ONE + 0.5)
        to, weight = size - 1 - o if mirrored else o, less if share <= 0.5 else _ONE - less
        weights[to, 0], weights[to, 1] = _ONE - weight, weight
        at[to] = first


@njit(nogil=True, cache=True)
def _weighted_rows(source, at, weights, taps, bounds, target, ahead):  # type: ignore[no-untyped-def]
    """target[o, low:high] = the `taps` rows of source from at[o], weighted and rounded, for each output row o.

    Meanwhile it fetches the rows that lie `ahead`: address of the first, bytes to the next, bytes of each, how many.
    """
    low, high = bounds
    if high - low < SUM:
        _weighted_bytes(source, at, weights, taps, low, high, target)
        return
    step, origin, count = source.strides[0], source.ctypes.data + low, high - low
    size = len(at)
    for o in range(size):
        for row in range(o * ahead[3] // size, (o + 1) * ahead[3] // size):
            fetch(ahead[0] + row * ahead[1], ahead[2])
        a = origin + at[o] * step
        to = target.ctypes.data + o * target.strides[0] + low
        if taps == 2:
            sum_row(to, a, step, (weights[o, 0], weights[o, 1]), count)
        elif taps == 3:
            sum_row(to, a, step, (weights[o, 0], weights[o, 1], weights[o, 2]), count)
        else:
            sum_row_of(to, a, step, weights[o].ctypes.data, taps, count)


@njit(nogil=True, cache=True)
def _weighted_bytes(source, at, weights, taps, low, high, target):  # type: ignore[no-untyped-def]
    """As `_weighted_rows`, for rows shorter than a vector."""
    for o in range(len(at)):
        for j in range(low, high):
            total = uint16(128)
            for k in range(taps):
                total = uint16(total + uint16(source[at[o] + k, j]) * weights[o, k])
            target[o, j] = uint8(total >> uint16(8))


@njit(nogil=True, cache=True)
def transpose(rows, columns, low, high, size, channels):  # type: ignore[no-untyped-def]
    """columns[i, o] = rows[o, i] by pixel of `channels` bytes, for low <= i < high and o < size.

    By tiles; the last ones overlap those before.
    """
    side = TILE if channels == 1 else PIXELS
    if channels not in (1, 3) or size < TILE or high - low < side:
        for i in range(low, high):
            for o in range(size):
                for c in range(channels):
                    columns[i, o * channels + c] = rows[o, i * channels + c]
        return
    source, target = rows.ctypes.data, columns.ctypes.data
    source_step, target_step = rows.strides[0], columns.strides[0]
    for block in range(low, high, side):
        i = min(block, high - side)
        for tile in range(0, size, TILE):
            o = min(tile, size - TILE)
            to, at = target + i * target_step + o * channels, source + o * source_step + i * channels
            if channels == 1:
                transpose_tile(to, target_step, at, source_step)
            else:
                transpose_pixels(to, target_step, at, source_step)
