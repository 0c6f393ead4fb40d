"""Resize a box of an image with antialiased bilinear interpolation: Pillow's `resize(box=...)` in 16-bit integers.

There are two passes of weighted sums over contiguous bytes, with a transpose by
pixel between them, so that both passes are the same vector code. Images are 2-D
here: rows along the outer axis, each with the pixels of the inner axis, of
`channels` bytes each. The result has its axes swapped, as images stored with x
first need it.
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

# Where an image lies: address, bytes from row to row, number of rows, and pixels
# of a row. These numbers have fixed types, as all arguments here do: numba
# compiles a function again, with all that it calls, for a slice, a constant or an
# axis of another type.
Pixels = namedtuple("Pixels", "address step rows columns")

# Work memory of `resize`: taps of both axes, images between the passes, and the
# box that `look_ahead` announces.
Scratch = namedtuple("Scratch", "outer_at outer_weights inner_at inner_weights rows columns ahead")


@njit(nogil=True, inline="always")
def pixels_at(address, step, rows, columns):  # type: ignore[no-untyped-def]
    """Return the Pixels of an image at an address."""
    return Pixels(int64(address), int64(step), int64(rows), int64(columns))


@njit(nogil=True, inline="always")
def axis(start, length, mirrored):  # type: ignore[no-untyped-def]
    """Return one axis of a box, in px."""
    return float64(start), float64(length), boolean(mirrored)


@njit(nogil=True, inline="always")
def axes(box, width, height, mirrored):  # type: ignore[no-untyped-def]
    """Return the axes across and down of a box: x, y, w, h as fractions of an image of this size."""
    x, y, w, h = box
    across = axis(np.float64(x) * width, np.float64(w) * width, mirrored)
    down = axis(np.float64(y) * height, np.float64(h) * height, False)
    return across, down


@njit(nogil=True, cache=True)
def scratch_for(inner_side, outer_size, inner_size, channels):  # type: ignore[no-untyped-def]
    """Allocate Scratch for images of up to `inner_side` pixels a row, and results of up to inner_size x outer_size."""
    size = max(outer_size, inner_size)
    longest = max(inner_side, outer_size, inner_size)

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
    """Announce the next box, so that the current `resize` prefetches it.

    A few rows are fetched with each row of the result. For images in random
    order, waiting for memory would otherwise take half the time of a crop.
    Fetching all rows at once would be no faster than memory is.

    Args:
        image: Pixels of the next image; address 0 if there is none.
        channels: bytes of a pixel.
        outer: axis of the rows, see `axis`.
        inner: axis within the rows.
        scratch: that of the current `resize`.
    """
    top = int(outer[0])
    left = int(inner[0])
    bottom = min(image.rows, int(outer[0] + outer[1]) + 2)
    right = min(image.columns, int(inner[0] + inner[1]) + 2)
    scratch.ahead[0] = image.address + top * image.step + left * channels
    scratch.ahead[1] = image.step
    scratch.ahead[2] = (right - left) * channels
    scratch.ahead[3] = bottom - top if image.address else 0


@njit(nogil=True, inline="always")
def resize(image, channels, outer, inner, scratch, out, upright, width):  # type: ignore[no-untyped-def]
    """Resize a box of an image.

    Args:
        image: Pixels.
        channels: bytes of a pixel.
        outer: axis of the rows, see `axis`; at most 8 times as long as the
            result.
        inner: axis within the rows; at most 8 times as long as the result.
        scratch: from `scratch_for`.
        out: Pixels of the result.
        upright: True for a result with the image's axes, which takes one more
            transpose; False for swapped axes.
        width: of the filter, see `triangle_weights`.

    Returns:
        The taps of both axes, for `resize_alike`.
    """
    return _resize(
        image, int64(channels), outer, inner, scratch, out, boolean(upright), float64(width)
    )


@njit(nogil=True, inline="always")
def pixels_of(rows, channels):  # type: ignore[no-untyped-def]
    """Return the Pixels of uint8 [rows, columns * channels]."""
    return pixels_at(rows.ctypes.data, rows.strides[0], len(rows), rows.shape[1] // channels)


@njit(nogil=True, cache=True)
def _resize(image, channels, outer, inner, scratch, out, upright, width):  # type: ignore[no-untyped-def]
    outer_at = scratch.outer_at[: out.rows if upright else out.columns]
    inner_at = scratch.inner_at[: out.columns if upright else out.rows]
    outer_taps = triangle_weights(outer, image.rows, outer_at, scratch.outer_weights, width)
    inner_taps = triangle_weights(inner, image.columns, inner_at, scratch.inner_weights, width)
    resize_alike(image, channels, (outer_taps, inner_taps), scratch, out, upright)

    return outer_taps, inner_taps


@njit(nogil=True, inline="always")
def resize_alike(image, channels, taps, scratch, out, upright):  # type: ignore[no-untyped-def]
    """Resize the box of the last `resize` in another image of the same size.

    Args:
        image: Pixels.
        channels: bytes of a pixel, int64.
        taps: that `resize` has returned.
        scratch: of that `resize`; nothing else has used it since.
        out: Pixels of the result, of the same size.
        upright: as in `resize`, a boolean.
    """
    outer_size = out.rows if upright else out.columns
    inner_size = out.columns if upright else out.rows
    outer_at = scratch.outer_at[:outer_size]
    inner_at = scratch.inner_at[:inner_size]
    outer_taps, inner_taps = taps

    # The pixels of a row that the second pass needs; a few more where these do not
    # fill a vector.
    low = min(inner_at[0], inner_at[-1])
    high = max(inner_at[0], inner_at[-1]) + inner_taps
    least = -(-SUM // channels)
    high = min(max(high, low + least), image.columns)
    low = max(min(low, high - least), 0)

    # Each pass fetches half the rows of the next box.
    address, step, length, count = scratch.ahead
    half = count // 2
    first_half = (address, step, length, half)
    second_half = (address + half * step, step, length, count - half)

    rows = pixels_of(scratch.rows, channels)
    columns = pixels_of(scratch.columns, channels)
    start = low * channels
    end = high * channels
    _sum_rows(image, outer_at, scratch.outer_weights, outer_taps, start, end, rows, first_half)
    transpose(rows, columns, low, high, outer_size, channels)

    swapped = rows if upright else out
    end = outer_size * channels
    _sum_rows(
        columns, inner_at, scratch.inner_weights, inner_taps, int64(0), end, swapped, second_half
    )
    if upright:
        transpose(swapped, out, int64(0), outer_size, inner_size, channels)


@njit(nogil=True, cache=True)
def whole(image, width, height):  # type: ignore[no-untyped-def]
    """Resize the whole image, uint8 [H, W, C], to [height, width, C]."""
    out = np.empty((height, width, image.shape[2]), np.uint8)
    _resize_whole(image, out, True, 1.0)
    return out


@njit(nogil=True, cache=True)
def whole_x_first(image, width, height, filter_width):  # type: ignore[no-untyped-def]
    """Resize the whole image, uint8 [H, W, C], to [width, height, C]: with x before y, and any width of filter."""
    out = np.empty((width, height, image.shape[2]), np.uint8)
    _resize_whole(image, out, False, filter_width)
    return out


@njit(nogil=True, inline="always")
def _resize_whole(image, out, upright, filter_width):  # type: ignore[no-untyped-def]
    rows, columns, channels = image.shape
    longest = max(out.shape[0], out.shape[1])
    scratch = scratch_for(columns, longest, longest, channels)
    source = pixels_at(image.ctypes.data, columns * channels, rows, columns)
    target = pixels_at(out.ctypes.data, out.shape[1] * channels, out.shape[0], out.shape[1])
    outer = axis(0, rows, False)
    inner = axis(0, columns, False)
    resize(source, channels, outer, inner, scratch, target, upright, filter_width)


@njit(nogil=True, cache=True)
def sums(image):  # type: ignore[no-untyped-def]
    """Sum the values and their squares in each channel of an image.

    Args:
        image: uint8 [H, W, C].

    Returns:
        int64 [2, C]: sums of the values, then of the squares.
    """
    rows, width, channels = image.shape
    assert rows <= 1 << 16  # so that a column's squares fit 32 bits
    totals = np.zeros(width * channels, np.uint32)
    squares = np.zeros(width * channels, np.uint32)
    for y in range(rows):
        _add_row(image[y].reshape(-1), totals, squares)

    out = np.zeros((2, channels), np.int64)
    for i in range(width * channels):
        out[0, i % channels] += totals[i]
        out[1, i % channels] += squares[i]

    return out


@njit(nogil=True, cache=True)
def _add_row(row, totals, squares):  # type: ignore[no-untyped-def]
    for i in range(len(row)):
        value = uint32(row[i])
        totals[i] += value
        squares[i] += value * value


@njit(nogil=True, cache=True)
def triangle_weights(box, side, first, weights, width=1.0):  # type: ignore[no-untyped-def]
    """Write the taps of an axis, as Pillow's `precompute_coeffs` for its bilinear (triangle) filter.

    There are 2 taps if the box, times the width, is no larger than the output,
    and 3 if it is at most 1.5 times as large. The weights of an output pixel sum
    to 256.

    Args:
        box: (start, length, mirrored) in px.
        side: of this axis in px.
        first: int64 [size], written: the first input pixel of each output pixel.
        weights: uint16 [size, TAPS], written: weights in 8-bit fixed point.
        width: of the filter as a multiple of Pillow's, if it reduces. A smaller
            one is sharper, with a little aliasing.

    Returns:
        The number of taps.
    """
    support = max(box[1] / len(first) * width, 1.0)
    if support == 1.0 and side > 1:
        _write_two_taps(box, side, first, weights)
        return 2

    taps = 3 if support <= 1.5 else int(np.ceil(2 * support)) + 1
    taps = min(taps, side, weights.shape[1])
    if taps == 3:
        _write_taps(
            box, side, support, 3, first, weights
        )  # a constant, so that its loops are unrolled
    else:
        _write_taps(box, side, support, taps, first, weights)
    return taps


@njit(nogil=True, inline="always")
def _write_taps(box, side, support, taps, first, weights):  # type: ignore[no-untyped-def]
    """Write a given number of taps for each output pixel."""
    start, length, mirrored = box
    size = len(first)
    scale = length / size
    slope = 1.0 / support
    for o in range(size):
        center = start + (o + 0.5) * scale
        pixel = min(max(int(center - support + 0.5), 0), side - taps)
        total = 0.0
        for k in range(taps):
            total += _filter_value(pixel + k, center, slope)

        # The largest weight takes the rounding error of all.
        target = size - 1 - o if mirrored else o
        share = _ONE / total
        remainder = _ONE
        largest = 0
        largest_value = 0.0
        for k in range(taps):
            value = _filter_value(pixel + k, center, slope)
            weight = int(value * share + 0.5)
            weights[target, k] = weight
            remainder -= weight
            largest = k if value > largest_value else largest
            largest_value = max(value, largest_value)
        weights[target, largest] += remainder
        first[target] = pixel


@njit(nogil=True, inline="always")
def _filter_value(pixel, center, slope):  # type: ignore[no-untyped-def]
    """Return the triangle filter's value at a pixel."""
    return max(0.0, 1.0 - abs(pixel + 0.5 - center) * slope)


@njit(nogil=True, cache=True)
def _write_two_taps(box, side, first, weights):  # type: ignore[no-untyped-def]
    """Write the taps of the narrowest filter, which interpolates linearly between two pixels."""
    start, length, mirrored = box
    size = len(first)
    scale = length / size
    for o in range(size):
        position = min(max(start + (o + 0.5) * scale - 0.5, 0.0), side - 1.0)
        pixel = min(int(position), side - 2)
        share = position - pixel

        # Round the smaller weight, so that a mirrored image gets the mirrored
        # weights.
        smaller = int(min(share, 1.0 - share) * _ONE + 0.5)
        weight = smaller if share <= 0.5 else _ONE - smaller
        target = size - 1 - o if mirrored else o
        weights[target, 0] = _ONE - weight
        weights[target, 1] = weight
        first[target] = pixel


@njit(nogil=True, cache=True)
def _sum_rows(source, first, weights, taps, low, high, target, ahead):  # type: ignore[no-untyped-def]
    """Set bytes low to high of each target row o to the weighted, rounded sum of `taps` source rows from first[o].

    Meanwhile fetch the rows `ahead`: (address of the first, bytes to the next,
    bytes of each, number of rows).
    """
    if high - low < SUM:
        _sum_bytes(source, first, weights, taps, low, high, target)
        return

    step = source.step
    count = high - low
    size = len(first)
    for o in range(size):
        for row in range(o * ahead[3] // size, (o + 1) * ahead[3] // size):
            fetch(ahead[0] + row * ahead[1], ahead[2])

        origin = source.address + low + first[o] * step
        to = target.address + o * target.step + low
        if taps == 2:
            sum_row(to, origin, step, (weights[o, 0], weights[o, 1]), count)
        elif taps == 3:
            sum_row(to, origin, step, (weights[o, 0], weights[o, 1], weights[o, 2]), count)
        else:
            sum_row_of(to, origin, step, weights[o].ctypes.data, taps, count)


@njit(nogil=True, cache=True)
def _sum_bytes(source, first, weights, taps, low, high, target):  # type: ignore[no-untyped-def]
    """Sum as `_sum_rows` does, for rows shorter than a vector."""
    for o in range(len(first)):
        for j in range(low, high):
            total = uint16(128)
            for k in range(taps):
                value = byte_at(source.address + (first[o] + k) * source.step + j)
                total = uint16(total + uint16(value) * weights[o, k])
            put_byte(target.address + o * target.step + j, uint8(total >> uint16(8)))


@njit(nogil=True, cache=True)
def transpose(rows, columns, low, high, size, channels):  # type: ignore[no-untyped-def]
    """Set pixel (i, o) of columns to (o, i) of rows, for low <= i < high and o < size.

    It goes by tiles, of which the last ones overlap those before.

    Args:
        rows: Pixels.
        columns: Pixels.
        low: first pixel of the rows.
        high: end of the pixels of the rows.
        size: number of rows.
        channels: bytes of a pixel.
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
            to = columns.address + i * columns.step + o * channels
            origin = rows.address + o * rows.step + i * channels
            if channels == 1:
                transpose_tile(to, columns.step, origin, rows.step)
            else:
                transpose_pixels(to, columns.step, origin, rows.step)
