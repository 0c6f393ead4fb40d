"""Augmentation on the CPU: numba kernels that run without the GIL, one thread a call; the definition is `oracle.py`.

Both kernels are bound by moving bytes. A shift is some vector moves a row. A resized crop is two passes of three-tap
sums over contiguous bytes in 16-bit integers, with one transpose by pixel between them; images kept [x, y, c] save a
second transpose, and mirroring is only the order in which the first pass writes.
"""

from __future__ import annotations

import numpy as np
from numba import njit, uint8, uint16

from trainer_classification.augment.oracle import Layout, Uint8, resizes
from trainer_classification.augment.vector import SUM, copy4, copy_row, mirror_row, sum_row
from trainer_classification.plan import Draws, Int64, Policy

_TAPS = 17  # most taps of a pass: boxes of up to 8 times the output
_ONE = 256  # weights are 8-bit fixed point: a sum of 255 * weights, rounded, just fits 16 bits
_BLOCK = 16  # pixels of a side of the transpose's blocks: source and target stay in the first cache


def augment(
    images: Uint8,
    index: Int64,
    draws: Draws,
    policy: Policy,
    size: int,
    layout: Layout = "HWC",
    out: Uint8 | None = None,
) -> Uint8:
    """As `oracle.augment`; `out`, uint8 [B, T, T, C], is written and returned where given. Padding rows are zero."""
    side, channels = images.shape[1], images.shape[3]
    out = np.empty((len(index), size, size, channels), np.uint8) if out is None else out
    assert images.flags.c_contiguous
    assert out.flags.c_contiguous
    if resizes(policy, side, size):
        if side > 8 * size:
            raise ValueError(f"Images stored at {side} px are too large for {size}: prepare with --image-size {size}.")
        _resized_crops(images, index, draws.box, draws.flip, layout == "WHC", out)
    elif layout == "HWC":
        _shifts(images, index, draws.shift, draws.flip, policy.pad == "reflect", out)
    else:
        raise ValueError(f"Shifts need images of layout HWC, these are {layout}: prepare with --image-size {size}.")
    if policy.cutout:
        _cutouts(out, draws.cutout, policy.cutout, policy.fill)
    return out


@njit(nogil=True, cache=True)
def _shifts(images, index, shift, flip, reflect, out):  # type: ignore[no-untyped-def]
    """Copy B images [S, S, C], shifted by (dy, dx), mirrored where `flip`, reflected or zero outside."""
    batch, side, _, channels = out.shape
    step = side * channels
    for b in range(batch):
        if index[b] < 0:
            out[b] = 0
            continue
        dy, dx = int(shift[b, 0]), int(shift[b, 1])
        first, last = max(0, -dx), min(side, side - dx)
        image, target = images.ctypes.data + index[b] * side * step, out.ctypes.data + b * side * step
        for y in range(side):
            source = image + _reflected(y + dy, side) * step + (first + dx) * channels
            if flip[b]:
                mirror_row(target + y * step + (side - last) * channels, source, last - first, channels)
            else:
                copy_row(target + y * step + first * channels, source, (last - first) * channels)
        _border(images[index[b]], out[b], dy, dx, flip[b], reflect)


@njit(nogil=True, cache=True, inline="always")
def _reflected(at, side):  # type: ignore[no-untyped-def]
    """Index that `at` shows when the image is mirrored at its first and last pixel."""
    if at < 0:
        return -at
    return 2 * side - 2 - at if at >= side else at


@njit(nogil=True, cache=True)
def _border(image, target, dy, dx, mirrored, reflect):  # type: ignore[no-untyped-def]
    """The |dx| columns that the row copies left out, and the |dy| rows, where outside is zero."""
    side = len(image)
    for x in range(side):
        if 0 <= x + dx < side:
            continue
        to, at = side - 1 - x if mirrored else x, _reflected(x + dx, side)
        for y in range(side):
            row = _reflected(y + dy, side)
            for c in range(image.shape[2]):
                target[y, to, c] = image[row, at, c] if reflect else 0
    if not reflect:
        target[: max(0, -dy)] = 0
        target[side - max(0, dy) :] = 0


@njit(nogil=True, cache=True)
def _cutouts(images, centre, side, fill):  # type: ignore[no-untyped-def]
    """Blank a square of each image in place."""
    size = images.shape[1]
    for b in range(len(images)):
        top = int(np.floor(centre[b, 0] * np.float32(size))) - side // 2
        left = int(np.floor(centre[b, 1] * np.float32(size))) - side // 2
        for y in range(max(top, 0), min(top + side, size)):
            images[b, y, max(left, 0) : max(min(left + side, size), 0)] = fill


@njit(nogil=True, cache=True)
def _resized_crops(images, index, boxes, flip, x_first, out):  # type: ignore[no-untyped-def]
    """Antialiased bilinear crops of B images [S, S, C] to [T, T, C]: outer axis, transpose, inner axis."""
    batch, size, _, channels = out.shape
    side = images.shape[1]
    at_x, at_y = np.empty(size, np.int64), np.empty(size, np.int64)
    weights_x, weights_y = np.empty((size, _TAPS), np.uint16), np.empty((size, _TAPS), np.uint16)
    # 4 spare bytes, as pixels move as four.
    rows = np.empty((size, max(side, size) * channels + 4), np.uint8)
    columns = np.empty((side, size * channels + 4), np.uint8)
    for b in range(batch):
        if index[b] < 0:
            out[b] = 0
            continue
        x, y, w, h = boxes[b]
        image, target = images[index[b]].reshape(side, side * channels), out[b].reshape(size, size * channels)
        taps_x = _triangle(np.float64(x) * side, np.float64(w) * side, side, flip[b], at_x, weights_x)
        taps_y = _triangle(np.float64(y) * side, np.float64(h) * side, side, False, at_y, weights_y)
        if x_first:
            low, high = at_y[0], at_y[-1] + taps_y
            _weighted_rows(image, at_x, weights_x, taps_x, low * channels, high * channels, rows)
            _transpose(rows, columns, low, high, size, channels)
            _weighted_rows(columns, at_y, weights_y, taps_y, 0, size * channels, target)
        else:
            low, high = min(at_x[0], at_x[-1]), max(at_x[0], at_x[-1]) + taps_x
            _weighted_rows(image, at_y, weights_y, taps_y, low * channels, high * channels, rows)
            _transpose(rows, columns, low, high, size, channels)
            _weighted_rows(columns, at_x, weights_x, taps_x, 0, size * channels, rows)
            _transpose(rows, target, 0, size, size, channels)


@njit(nogil=True, cache=True)
def _triangle(start, length, side, mirrored, at, weights):  # type: ignore[no-untyped-def]
    """Taps of an axis, as Pillow's `precompute_coeffs` for its bilinear (triangle) filter.

    Writes for each output pixel the first input pixel and 8-bit weights that sum to 256, and returns how many taps
    there are: 3 while the box is at most 1.5 times the output.
    """
    size = len(at)
    scale = length / size
    support = max(scale, 1.0)
    slope = 1.0 / support
    taps = min(3 if support <= 1.5 else int(np.ceil(2 * support)) + 1, side, _TAPS)
    raw = np.empty(_TAPS)
    for o in range(size):
        centre = start + (o + 0.5) * scale
        first = min(max(int(centre - support + 0.5), 0), side - taps)
        total = 0.0
        for k in range(taps):
            raw[k] = max(0.0, 1.0 - abs(first + k + 0.5 - centre) * slope)
            total += raw[k]
        to, left, largest, share = size - 1 - o if mirrored else o, _ONE, 0, _ONE / total
        for k in range(taps):
            weight = int(raw[k] * share + 0.5)
            weights[to, k] = weight
            left -= weight
            largest = k if raw[k] > raw[largest] else largest
        weights[to, largest] += left
        at[to] = first
    return taps


@njit(nogil=True, cache=True)
def _weighted_rows(source, at, weights, taps, low, high, target):  # type: ignore[no-untyped-def]
    """target[o, low:high] = the `taps` rows of source from at[o], weighted and rounded, for each output row o."""
    if taps == 3 and high - low >= SUM:
        step, origin, count = source.strides[0], source.ctypes.data + low, high - low
        for o in range(len(at)):
            a = origin + at[o] * step
            to = target.ctypes.data + o * target.strides[0] + low
            sum_row(to, a, a + step, a + 2 * step, weights[o, 0], weights[o, 1], weights[o, 2], count)
        return
    for o in range(len(at)):
        total = np.full(high - low, 128, np.uint16)
        for k in range(taps):
            _add(total, source[at[o] + k, low:high], uint16(weights[o, k]))
        for j in range(high - low):
            target[o, low + j] = uint8(total[j] >> uint16(8))


@njit(nogil=True, cache=True)
def _add(total, row, weight):  # type: ignore[no-untyped-def]
    for j in range(len(total)):
        total[j] += uint16(row[j]) * weight


@njit(nogil=True, cache=True)
def _transpose(rows, columns, low, high, size, channels):  # type: ignore[no-untyped-def]
    """columns[i, o] = rows[o, i] by pixel, for low <= i < high and o < size, in blocks."""
    source, target = rows.ctypes.data, columns.ctypes.data
    source_step, target_step = rows.strides[0], columns.strides[0]
    # Where a row of the target ends with its last pixel, a fourth byte would fall on the next row.
    quick = size if channels == 3 and columns.shape[1] > size * channels else 0
    for block in range(low, high, _BLOCK):
        for o in range(quick):
            for i in range(block, min(block + _BLOCK, high)):
                copy4(target + i * target_step + o * 3, source + o * source_step + i * 3)
    for i in range(low, high):
        for o in range(quick, size):
            for c in range(channels):
                columns[i, o * channels + c] = rows[o, i * channels + c]
