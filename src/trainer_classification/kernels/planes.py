"""Images as Y, Cb and Cr, chroma as small as JPEGs store it: half the bytes of RGB, which is made at the final size."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
from numba import int64, njit

from trainer_classification.kernels.resize import axis, pixels_at, pixels_of, resize, scratch_for, transpose
from trainer_classification.kernels.vector import RGB, rgb_vector, sharp_row_of

# A decoded image: planes in one buffer, whose chroma is smaller by `across` and `down`; colours 0: Y alone.
Planes = namedtuple("Planes", "width height stride chroma_stride blue red across down colours")

NEUTRAL = np.uint8(128)  # chroma of grey
_CUBIC = 0.8  # width of the cubic where it shrinks; 1: Pillow's


@njit(nogil=True, cache=True)
def whole(planes, buffer, width, height):  # type: ignore[no-untyped-def]
    """The whole image at another size, antialiased bilinear: uint8 [height, width, C], C as the image has.

    Args:
        planes, buffer: of a decoder.
        width, height: px; the image is at most 8 times as large.
    """
    return _whole(planes, buffer, int64(width), int64(height), False)


@njit(nogil=True, cache=True)
def whole_x_first(planes, buffer, side):  # type: ignore[no-untyped-def]
    """The whole image as a square with x before y: uint8 [side, side, C], C as the image has.

    Luma by a cubic, which keeps what a later crop, resized again, should show: a triangle blurs.

    Args:
        planes, buffer: of a decoder.
        side: px, SUM at least, as the image's width; the image is at most 4 times as large.
    """
    return _whole(planes, buffer, int64(side), int64(side), True)


@njit(nogil=True, cache=True)
def _whole(planes, buffer, width, height, x_first):  # type: ignore[no-untyped-def]
    count = 3 if planes.colours else 1
    made, out = np.empty((count, height, width), np.uint8), np.empty((height, width, count), np.uint8)
    longest = max(width, height)
    scratch = scratch_for(planes.width, longest, longest, int64(1))
    for number in range(count):
        image, columns, rows = plane_at(buffer.ctypes.data, planes, number)
        target = pixels_at(made[number].ctypes.data, width, height, width)
        down, across = planes.height / rows, planes.width / columns
        if x_first and number == 0:
            _sharp(image, down, across, scratch, target)
        else:
            resize(image, 1, axis(0, down, False), axis(0, across, False), scratch, target, not x_first, 1.0)
    if count == 1:
        return made.reshape(height, width, 1)
    colours(made, out)
    return out


@njit(nogil=True, cache=True)
def _sharp(image, height, width, scratch, out):  # type: ignore[no-untyped-def]
    """`resize` of a whole plane, by a cubic."""
    size = out.rows
    taps = _cubic(height, image.rows, scratch.outer_at, scratch.outer_weights)
    rows, columns = pixels_of(scratch.rows, int64(1)), pixels_of(scratch.columns, int64(1))
    _sharp_rows(image, scratch.outer_at, scratch.outer_weights, taps, image.columns, rows)
    transpose(rows, columns, int64(0), image.columns, size, int64(1))
    taps = _cubic(width, image.columns, scratch.inner_at, scratch.inner_weights)
    _sharp_rows(columns, scratch.inner_at, scratch.inner_weights, taps, size, out)


@njit(nogil=True, cache=True)
def _sharp_rows(source, at, weights, taps, count, target):  # type: ignore[no-untyped-def]
    """`count` bytes of each row of target = the rows of source from at[o], weighted."""
    for o in range(len(at)):
        to, origin = target.address + o * target.step, source.address + at[o] * source.step
        sharp_row_of(to, origin, source.step, weights[o].ctypes.data, taps, count)


@njit(nogil=True, cache=True)
def _cubic(length, side, at, weights):  # type: ignore[no-untyped-def]
    """As `resize.triangle`, of the whole axis by Keys' cubic (a = -0.5): signed weights that add up to 128."""
    size = len(at)
    scale = length / size
    stretch = max(scale * _CUBIC, 1.0)
    taps = min(int(np.ceil(4 * stretch)) + 1, side, weights.shape[1])
    raw, slope = np.empty(taps), 1 / stretch
    for o in range(size):
        centre = (o + 0.5) * scale
        first = min(max(int(np.floor(centre - 2 * stretch + 0.5)), 0), side - taps)
        total = 0.0
        for k in range(taps):
            x = min(abs(first + k + 0.5 - centre) * slope, 2.0)
            near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
            raw[k] = near if x < 1 else far
            total += raw[k]
        share = 128 / total
        left, largest = 128, 0
        for k in range(taps):
            weight = int(np.floor(raw[k] * share + 0.5))
            weights[o, k] = np.uint16(weight & 0xFFFF)
            left -= weight
            largest = k if raw[k] > raw[largest] else largest
        weights[o, largest] += np.uint16(left & 0xFFFF)
        at[o] = first
    return taps


@njit(nogil=True, inline="always")
def plane_at(address, planes, number):  # type: ignore[no-untyped-def]
    """(Pixels, columns and rows of the image to one of it) of luma, Cb or Cr."""
    if number == 0:
        return pixels_at(address, planes.stride, planes.height, planes.width), np.int64(1), np.int64(1)
    width, height = -(-planes.width // planes.across), -(-planes.height // planes.down)
    start = planes.blue if number == 1 else planes.red
    return pixels_at(address + start, planes.chroma_stride, height, width), planes.across, planes.down


@njit(nogil=True, cache=True)
def colours(planes, out):  # type: ignore[no-untyped-def]
    """RGB of planes, uint8 [3, T, T] -> [T, T, 3]; the last vector overlaps the one before."""
    count = out.shape[0] * out.shape[1]
    luma, blue, red = planes[0].ctypes.data, planes[1].ctypes.data, planes[2].ctypes.data
    target = out.ctypes.data
    if count < RGB:
        _colours_of_few(planes, out)
        return
    for at in range(0, count - RGB, RGB):
        rgb_vector(target + 3 * at, luma + at, blue + at, red + at)
    at = count - RGB
    rgb_vector(target + 3 * at, luma + at, blue + at, red + at)


@njit(nogil=True, cache=True)
def _colours_of_few(planes, out):  # type: ignore[no-untyped-def]
    """As `rgb_vector`, a pixel at a time."""
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            luma, b, r = int(planes[0, y, x]), int(planes[1, y, x]) - 128, int(planes[2, y, x]) - 128
            out[y, x, 0] = min(max(luma + r + ((103 * r + 128) >> 8), 0), 255)
            out[y, x, 1] = min(max(luma - r + ((73 * r - 88 * b + 128) >> 8), 0), 255)
            out[y, x, 2] = min(max(luma + 2 * b + ((128 - 58 * b) >> 8), 0), 255)
