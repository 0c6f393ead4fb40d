"""Resize images as planes of Y, Cb and Cr, with chroma as small as JPEGs store it.

That is half the bytes of RGB, which is made at the final size.
"""

from __future__ import annotations

from collections import namedtuple

import numpy as np
from numba import int64, njit, uint8

from trainer_classification.kernels.resize import (
    axis,
    pixels_at,
    pixels_of,
    resize,
    scratch_for,
    transpose,
)
from trainer_classification.kernels.vector import RGB, SUM, rgb_vector, sharp_row_of

# A decoded image: planes in one buffer, luma first. `blue` and `red` are the
# offsets of Cb and Cr in bytes, which are smaller by the factors `across` and
# `down`. `has_chroma` is 0 if there is only Y, else 1.
Planes = namedtuple("Planes", "width height stride chroma_stride blue red across down has_chroma")

NEUTRAL = np.uint8(128)  # chroma of gray
_CUBIC_WIDTH = 0.8  # of the cubic filter, as a multiple of Pillow's, if it reduces
_MOST_SHARP = 4  # times an image may shrink by the cubic, which has no more taps


@njit(nogil=True, cache=True)
def whole(planes, buffer, width, height):  # type: ignore[no-untyped-def]
    """Resize the whole image with an antialiased bilinear filter.

    Args:
        planes: from a decoder.
        buffer: uint8, from the same decoder.
        width: of the result in px; the image is at most 8 times as large.
        height: of the result in px.

    Returns:
        uint8 [height, width, C] with as many channels as the image.
    """
    return _resize_planes(planes, buffer, int64(width), int64(height), False)


@njit(nogil=True, cache=True)
def whole_x_first(planes, buffer, side):  # type: ignore[no-untyped-def]
    """Resize the whole image to a square with x before y.

    Luma is resized by a cubic. It keeps detail for later crops, which are resized
    again; a triangle filter blurs.

    Args:
        planes: from a decoder.
        buffer: uint8, from the same decoder.
        side: of the result in px. It and the image's width are SUM px or more;
            the image is at most 4 times as large.

    Returns:
        uint8 [side, side, C] with as many channels as the image.
    """
    return _resize_planes(planes, buffer, int64(side), int64(side), True)


@njit(nogil=True, cache=True)
def _resize_planes(planes, buffer, width, height, x_first):  # type: ignore[no-untyped-def]
    count = 3 if planes.has_chroma else 1
    resized = np.empty((count, height, width), np.uint8)
    longest = max(width, height)
    scratch = scratch_for(planes.width, longest, longest, int64(1))

    for number in range(count):
        image, columns, rows = plane_at(buffer.ctypes.data, planes, number)
        target = pixels_at(resized[number].ctypes.data, width, height, width)
        down = planes.height / rows
        across = planes.width / columns
        if x_first and number == 0:
            _resize_sharply(image, down, across, scratch, target)
        else:
            outer = axis(0, down, False)
            inner = axis(0, across, False)
            resize(image, 1, outer, inner, scratch, target, not x_first, 1.0)

    if count == 1:
        return resized.reshape(height, width, 1)
    out = np.empty((height, width, count), np.uint8)
    convert_to_rgb(resized, out)

    return out


@njit(nogil=True, cache=True)
def store_x_first(planes, buffer, side):  # type: ignore[no-untyped-def]
    """Resize the whole image to Y, Cb and Cr at 4:2:0, as the planes format holds it.

    Chroma is resized by the cubic, too, where that has enough taps: it is enlarged
    again in crops.

    Args:
        planes: from a decoder, or `from_rgb`.
        buffer: uint8, from the same.
        side: of luma in px, even; the image is at most 4 times as large.

    Returns:
        uint8 [side * side * 3 / 2]: Y, then Cb and Cr at half the side, each with x
        before y; uint8 [side * side] of an image without chroma.
    """
    side = int64(side)
    half = side // 2
    count = 3 if planes.has_chroma else 1
    out = np.empty(side * side + (count - 1) * half * half, np.uint8)
    scratch = scratch_for(planes.width, side, side, int64(1))

    start = int64(0)
    for number in range(count):
        image, columns, rows = plane_at(buffer.ctypes.data, planes, number)
        size = half if number else side
        target = pixels_at(out.ctypes.data + start, size, size, size)
        start += size * size
        down = planes.height / rows
        across = planes.width / columns
        if max(down, across) <= _MOST_SHARP * size and min(image.columns, size) >= SUM:
            _resize_sharply(image, down, across, scratch, target)
        else:
            resize(
                image, 1, axis(0, down, False), axis(0, across, False), scratch, target, False, 1.0
            )

    return out


@njit(nogil=True, cache=True)
def from_rgb(pixels):  # type: ignore[no-untyped-def]
    """Convert an image to planes of full size, by the full-range BT.601 of JFIF, rounded as libjpeg does.

    Args:
        pixels: uint8 [H, W, 3], or [H, W, 1] for luma alone.

    Returns:
        (planes, buffer), as a decoder.
    """
    height, width, channels = pixels.shape
    count = height * width
    buffer = np.empty(count * channels, np.uint8)
    has_chroma = int64(channels == 3)
    rows = pixels.reshape(count, channels)
    if has_chroma:
        for i in range(count):
            red = int64(rows[i, 0])
            green = int64(rows[i, 1])
            blue = int64(rows[i, 2])
            luma = 19595 * red + 38470 * green + 7471 * blue
            buffer[i] = (luma + 32768) >> 16
            buffer[count + i] = _chroma(-11059 * red - 21709 * green + 32768 * blue)
            buffer[2 * count + i] = _chroma(32768 * red - 27439 * green - 5329 * blue)
    else:
        buffer[:] = rows[:, 0]

    one = int64(1)
    planes = Planes(
        int64(width),
        int64(height),
        int64(width),
        int64(width),
        int64(count),
        int64(2 * count),
        one,
        one,
        has_chroma,
    )
    return planes, buffer


@njit(nogil=True, inline="always")
def _chroma(value):  # type: ignore[no-untyped-def]
    """Return a difference in 1/65536, which lies in -127.5 to 127.5, as a byte."""
    return uint8(min((value + (128 << 16) + 32767) >> 16, 255))


@njit(nogil=True, cache=True)
def _resize_sharply(image, height, width, scratch, out):  # type: ignore[no-untyped-def]
    """Resize a whole plane by a cubic, with its axes swapped."""
    size = out.rows
    outer_at = scratch.outer_at[:size]
    inner_at = scratch.inner_at[:size]
    rows = pixels_of(scratch.rows, int64(1))
    columns = pixels_of(scratch.columns, int64(1))

    taps = _cubic_weights(height, image.rows, outer_at, scratch.outer_weights)
    _sum_rows(image, outer_at, scratch.outer_weights, taps, image.columns, rows)
    transpose(rows, columns, int64(0), image.columns, size, int64(1))

    taps = _cubic_weights(width, image.columns, inner_at, scratch.inner_weights)
    _sum_rows(columns, inner_at, scratch.inner_weights, taps, size, out)


@njit(nogil=True, cache=True)
def _sum_rows(source, first_rows, weights, taps, count, target):  # type: ignore[no-untyped-def]
    """Set `count` bytes of each target row o to the weighted sum of the source rows from first_rows[o]."""
    for o in range(len(first_rows)):
        to = target.address + o * target.step
        origin = source.address + first_rows[o] * source.step
        sharp_row_of(to, origin, source.step, weights[o].ctypes.data, taps, count)


@njit(nogil=True, cache=True)
def _cubic_weights(length, side, first, weights):  # type: ignore[no-untyped-def]
    """Write the taps of a whole axis, and return how many there are.

    They are those of `resize.triangle_weights`, but by Keys' cubic (a = -0.5):
    signed weights that sum to 128.

    Args:
        length: of the box in px.
        side: of this axis in px.
        first: int64 [size], written: the first input pixel of each output pixel.
        weights: uint16 [size, TAPS], written: signed weights in two's complement.
    """
    size = len(first)
    scale = length / size
    stretch = max(scale * _CUBIC_WIDTH, 1.0)
    taps = min(int(np.ceil(4 * stretch)) + 1, side, weights.shape[1])
    values = np.empty(taps)
    slope = 1 / stretch

    for o in range(size):
        center = (o + 0.5) * scale
        start = min(max(int(np.floor(center - 2 * stretch + 0.5)), 0), side - taps)
        total = 0.0
        for k in range(taps):
            x = min(abs(start + k + 0.5 - center) * slope, 2.0)
            near = (1.5 * x - 2.5) * x * x + 1
            far = ((-0.5 * x + 2.5) * x - 4) * x + 2
            values[k] = near if x < 1 else far
            total += values[k]

        # The largest weight takes the rounding error of all.
        share = 128 / total
        remainder = 128
        largest = 0
        for k in range(taps):
            weight = int(np.floor(values[k] * share + 0.5))
            weights[o, k] = np.uint16(weight & 0xFFFF)
            remainder -= weight
            if values[k] > values[largest]:
                largest = k
        weights[o, largest] += np.uint16(remainder & 0xFFFF)
        first[o] = start

    return taps


@njit(nogil=True, inline="always")
def plane_at(address, planes, number):  # type: ignore[no-untyped-def]
    """Return the Pixels of Y, Cb or Cr, and how many columns and rows of the image one of its pixels covers."""
    if number == 0:
        return (
            pixels_at(address, planes.stride, planes.height, planes.width),
            np.int64(1),
            np.int64(1),
        )

    width = -(-planes.width // planes.across)
    height = -(-planes.height // planes.down)
    offset = planes.blue if number == 1 else planes.red
    return (
        pixels_at(address + offset, planes.chroma_stride, height, width),
        planes.across,
        planes.down,
    )


@njit(nogil=True, cache=True)
def convert_to_rgb(planes, out):  # type: ignore[no-untyped-def]
    """Convert Y, Cb and Cr, uint8 [3, H, W], to RGB, uint8 [H, W, 3]."""
    count = out.shape[0] * out.shape[1]
    if count < RGB:
        _convert_few_to_rgb(planes, out)
        return

    luma = planes[0].ctypes.data
    blue = planes[1].ctypes.data
    red = planes[2].ctypes.data
    target = out.ctypes.data
    for i in range(0, count - RGB, RGB):
        rgb_vector(target + 3 * i, luma + i, blue + i, red + i)

    last = count - RGB  # this vector overlaps the one before
    rgb_vector(target + 3 * last, luma + last, blue + last, red + last)


@njit(nogil=True, cache=True)
def _convert_few_to_rgb(planes, out):  # type: ignore[no-untyped-def]
    """Convert as `rgb_vector` does, one pixel at a time."""
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            luma = int(planes[0, y, x])
            b = int(planes[1, y, x]) - 128
            r = int(planes[2, y, x]) - 128
            out[y, x, 0] = min(max(luma + r + ((103 * r + 128) >> 8), 0), 255)
            out[y, x, 1] = min(max(luma - r + ((73 * r - 88 * b + 128) >> 8), 0), 255)
            out[y, x, 2] = min(max(luma + 2 * b + ((128 - 58 * b) >> 8), 0), 255)
