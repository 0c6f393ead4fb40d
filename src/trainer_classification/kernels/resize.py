"""Antialiased bilinear resizing of a box of an image: Pillow's `resize(box=...)` in 16-bit integers.

Two passes of weighted sums over contiguous bytes, with a transpose by pixel between them, so that both passes are the
same vector code. Images are 2-D here: rows of the outer axis, each holding the inner axis' pixels of `channels` bytes.
The result lies with its axes swapped, which is what images stored x first, and preparing those, want.
"""

from __future__ import annotations

from collections import namedtuple

import numpy as np
from numba import boolean, float64, int64, njit, uint8, uint16, uint32

from trainer_classification.kernels.vector import (
    PIXELS,
    SUM,
    TILE,
    byte_at,
    copy,
    fetch,
    put_byte,
    sum_row,
    sum_row_of,
    transpose_pixels,
    transpose_tile,
)

TAPS = 17  # most taps of a pass: boxes of up to 8 times the output
_ONE = 256  # weights are 8-bit fixed point: a sum of 255 * weights, rounded, just fits 16 bits

# Where an image is: address, bytes from row to row, rows, and pixels of a row. Numbers of fixed types, as are all
# arguments here: numba compiles a function anew, with all it calls, for a slice, a constant or an axis of another type.
Pixels = namedtuple("Pixels", "address step rows columns")

# Arrays that `resize` works in: taps of both axes, images between the passes, and what `look_ahead` says.
Scratch = namedtuple("Scratch", "outer_at outer_weights inner_at inner_weights rows columns ahead")


@njit(nogil=True, inline="always")
def pixels_at(address, step, rows, columns):  # type: ignore[no-untyped-def]
    """The Pixels of an image that lies there."""
    return Pixels(int64(address), int64(step), int64(rows), int64(columns))


@njit(nogil=True, inline="always")
def axis(start, length, mirrored):  # type: ignore[no-untyped-def]
    """A box on an axis, in px."""
    return float64(start), float64(length), boolean(mirrored)


@njit(nogil=True, inline="always")
def axes(box, width, height, mirrored):  # type: ignore[no-untyped-def]
    """The axes across and down of a box: x, y, w, h as fractions of an image of this size."""
    x, y, w, h = box
    across, down = (np.float64(x) * width, np.float64(w) * width), (np.float64(y) * height, np.float64(h) * height)
    return axis(across[0], across[1], mirrored), axis(down[0], down[1], False)


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
def look_ahead(image, channels, outer, inner, scratch):  # type: ignore[no-untyped-def]
    """Say which box comes next: the `resize` before it brings it to the cache, a few rows with each row it makes.

    Images in random order would else be waited for, half the time of a crop; all at once, memory is no faster.

    Args:
        image: Pixels; with address 0, none comes next.
        channels, outer, inner: as of `resize`.
        scratch: of the `resize` before it.
    """
    low, left = int(outer[0]), int(inner[0])
    high, right = min(image.rows, int(outer[0] + outer[1]) + 2), min(image.columns, int(inner[0] + inner[1]) + 2)
    scratch.ahead[0] = image.address + low * image.step + left * channels
    scratch.ahead[1] = image.step
    scratch.ahead[2] = (right - left) * channels
    scratch.ahead[3] = high - low if image.address else 0


@njit(nogil=True, inline="always")
def resize(image, channels, outer, inner, scratch, out, upright, width):  # type: ignore[no-untyped-def]
    """A box of an image.

    Args:
        image: Pixels.
        channels: bytes of a pixel.
        outer, inner: see `axis`: the box on the axis of the rows and on that within them; 8 times the result at most.
        scratch: see `scratch_for`.
        out: Pixels of the result.
        upright: it lies as the image does, which takes one transpose more; else with its axes swapped.
        width: of the filter, as of `triangle`.
    """
    _resize(image, int64(channels), outer, inner, scratch, out, boolean(upright), float64(width))


@njit(nogil=True, inline="always")
def pixels_of(rows, channels):  # type: ignore[no-untyped-def]
    """The Pixels of uint8 [rows, columns * channels]."""
    return pixels_at(rows.ctypes.data, rows.strides[0], len(rows), rows.shape[1] // channels)


@njit(nogil=True, cache=True)
def _resize(image, channels, outer, inner, scratch, out, upright, width):  # type: ignore[no-untyped-def]
    outer_size, inner_size = (out.rows, out.columns) if upright else (out.columns, out.rows)
    outer_at, inner_at = scratch.outer_at[:outer_size], scratch.inner_at[:inner_size]
    outer_taps = triangle(outer, image.rows, outer_at, scratch.outer_weights, width)
    inner_taps = triangle(inner, image.columns, inner_at, scratch.inner_weights, width)
    low = min(inner_at[0], inner_at[-1])
    high = max(inner_at[0], inner_at[-1]) + inner_taps
    ahead, step, each, count = scratch.ahead
    first, second = (ahead, step, each, count // 2), (ahead + count // 2 * step, step, each, count - count // 2)
    rows, columns = pixels_of(scratch.rows, channels), pixels_of(scratch.columns, channels)
    _weighted_rows(image, outer_at, scratch.outer_weights, outer_taps, low * channels, high * channels, rows, first)
    transpose(rows, columns, low, high, outer_size, channels)
    swapped, end = rows if upright else out, outer_size * channels
    _weighted_rows(columns, inner_at, scratch.inner_weights, inner_taps, int64(0), end, swapped, second)
    if upright:
        transpose(swapped, out, int64(0), outer_size, inner_size, channels)


@njit(nogil=True, cache=True)
def whole(image, width, height):  # type: ignore[no-untyped-def]
    """The whole image at another size: uint8 [H, W, C] -> [height, width, C]."""
    out = np.empty((height, width, image.shape[2]), np.uint8)
    _whole(image, out, True, 1.0)
    return out


@njit(nogil=True, cache=True)
def whole_x_first(image, width, height, filter_width):  # type: ignore[no-untyped-def]
    """As `whole`, with x before y, and a filter of some width: uint8 [H, W, C] -> [width, height, C]."""
    out = np.empty((width, height, image.shape[2]), np.uint8)
    _whole(image, out, False, filter_width)
    return out


@njit(nogil=True, inline="always")
def _whole(image, out, upright, filter_width):  # type: ignore[no-untyped-def]
    rows, columns, channels = image.shape
    longest = max(out.shape[0], out.shape[1])
    scratch = scratch_for(columns, longest, longest, channels)
    source = pixels_at(image.ctypes.data, columns * channels, rows, columns)
    target = pixels_at(out.ctypes.data, out.shape[1] * channels, out.shape[0], out.shape[1])
    resize(source, channels, axis(0, rows, False), axis(0, columns, False), scratch, target, upright, filter_width)


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
def _weighted_rows(source, at, weights, taps, low, high, target, ahead):  # type: ignore[no-untyped-def]
    """Bytes low to high of target's row o = the `taps` rows of source from at[o], weighted and rounded, for each o.

    Meanwhile it fetches the rows that lie `ahead`: address of the first, bytes to the next, bytes of each, how many.
    """
    if high - low < SUM:
        _weighted_bytes(source, at, weights, taps, low, high, target)
        return
    step, origin, count = source.step, source.address + low, high - low
    size = len(at)
    for o in range(size):
        for row in range(o * ahead[3] // size, (o + 1) * ahead[3] // size):
            fetch(ahead[0] + row * ahead[1], ahead[2])
        a = origin + at[o] * step
        to = target.address + o * target.step + low
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
                value = byte_at(source.address + (at[o] + k) * source.step + j)
                total = uint16(total + uint16(value) * weights[o, k])
            put_byte(target.address + o * target.step + j, uint8(total >> uint16(8)))


@njit(nogil=True, cache=True)
def transpose(rows, columns, low, high, size, channels):  # type: ignore[no-untyped-def]
    """Pixel (i, o) of columns = (o, i) of rows, of `channels` bytes, for low <= i < high and o < size.

    By tiles; the last ones overlap those before.
    """
    side = TILE if channels == 1 else PIXELS
    if channels not in (1, 3) or size < TILE or high - low < side:
        for i in range(low, high):
            for o in range(size):
                to = columns.address + i * columns.step + o * channels
                copy(to, rows.address + o * rows.step + i * channels, channels)
        return
    for block in range(low, high, side):
        i = min(block, high - side)
        for tile in range(0, size, TILE):
            o = min(tile, size - TILE)
            to, at = columns.address + i * columns.step + o * channels, rows.address + o * rows.step + i * channels
            if channels == 1:
                transpose_tile(to, columns.step, at, rows.step)
            else:
                transpose_pixels(to, columns.step, at, rows.step)
