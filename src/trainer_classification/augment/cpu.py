"""Augmentation on the CPU: numba kernels that run without the GIL, one thread a call; the definition is `oracle.py`.

Both kernels are bound by moving bytes. A shift is one memory copy a row (mirrored rows go pixel by pixel). A resized
crop is two passes of three-tap sums over contiguous bytes, in 16-bit integers that LLVM vectorises, with one transpose
by pixel between them; images kept [x, y, c] save a second transpose.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types, uint8, uint16
from numba.core import cgutils
from numba.extending import intrinsic

from trainer_classification.augment.oracle import Layout, Uint8, resizes
from trainer_classification.plan import Draws, Int64, Policy

_TAPS = 17  # most taps of a pass: boxes of up to 8 times the output
_ONE = 256  # weights are 8-bit fixed point: a sum of 255 * weights, rounded, just fits 16 bits


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


@intrinsic
def _copy(typing_context: Any, target: Any, source: Any, count: Any) -> Any:
    """Copy `count` bytes between two addresses: memcpy."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()
        to, frm = (builder.inttoptr(arg, pointer) for arg in args[:2])
        cgutils.raw_memcpy(builder, to, frm, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.uintp), codegen


@intrinsic
def _copy4(typing_context: Any, target: Any, source: Any) -> Any:
    """Copy four bytes between two addresses, aligned or not: one load and one store."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = ir.IntType(32).as_pointer()
        value = builder.load(builder.inttoptr(args[1], pointer), align=1)
        builder.store(value, builder.inttoptr(args[0], pointer), align=1)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp), codegen


@njit(nogil=True, cache=True)
def _shifts(images, index, shift, flip, reflect, out):  # type: ignore[no-untyped-def]
    """Copy B images [S, S, C], shifted by (dy, dx), mirrored where `flip`, reflected or zero outside."""
    batch, side = out.shape[:2]
    for b in range(batch):
        if index[b] < 0:
            out[b] = 0
            continue
        image, target = images[index[b]], out[b]
        dy, dx = int(shift[b, 0]), int(shift[b, 1])
        for y in range(side):
            row = _reflected(y + dy, side)
            if row != y + dy and not reflect:
                target[y] = 0
            elif flip[b]:
                _mirrored_row(image[row], target[y], dx, reflect)
            else:
                _row(image[row], target[y], dx, reflect)
    return out


@njit(nogil=True, cache=True, inline="always")
def _reflected(at, side):  # type: ignore[no-untyped-def]
    """Index that `at` shows when the image is mirrored at its first and last pixel."""
    if at < 0:
        return -at
    return 2 * side - 2 - at if at >= side else at


@njit(nogil=True, cache=True, inline="always")
def _row(source, target, dx, reflect):  # type: ignore[no-untyped-def]
    """target[x] = source[x + dx]: the inside is one copy, the border is at most |dx| pixels."""
    side, channels = source.shape
    first, last = max(0, -dx), min(side, side - dx)
    _copy(
        target.ctypes.data + first * channels,
        source.ctypes.data + (first + dx) * channels,
        (last - first) * channels,
    )
    for x in range(first):
        _border(source, target, x, x + dx, reflect)
    for x in range(last, side):
        _border(source, target, x, x + dx, reflect)


@njit(nogil=True, cache=True, inline="always")
def _mirrored_row(source, target, dx, reflect):  # type: ignore[no-untyped-def]
    """target[side - 1 - x] = source[x + dx]."""
    side, channels = source.shape
    first, last = max(0, -dx), min(side, side - dx)
    if channels == 3:
        _mirror3(target.ctypes.data + (side - last) * 3, source.ctypes.data + (last + dx) * 3, last - first)
    else:
        for x in range(first, last):
            for c in range(channels):
                target[side - 1 - x, c] = source[x + dx, c]
    for x in range(first):
        _border(source, target, side - 1 - x, x + dx, reflect)
    for x in range(last, side):
        _border(source, target, side - 1 - x, x + dx, reflect)


@njit(nogil=True, cache=True, inline="always")
def _mirror3(target, source_end, count):  # type: ignore[no-untyped-def]
    """Write the `count` 3-byte pixels that end at `source_end` in reverse.

    A pixel moves as four bytes, the fourth of which the next one overwrites; the first and the last move as three, so
    that nothing is read or written outside the row.
    """
    _copy(target, source_end - 3, 3)
    for k in range(1, count - 1):
        _copy4(target + 3 * k, source_end - 3 * (k + 1))
    _copy(target + 3 * (count - 1), source_end - 3 * count, 3)


@njit(nogil=True, cache=True, inline="always")
def _border(source, target, x, at, reflect):  # type: ignore[no-untyped-def]
    for c in range(source.shape[1]):
        target[x, c] = source[_reflected(at, len(source)), c] if reflect else 0


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
    outer_at, inner_at = np.empty(size, np.int64), np.empty(size, np.int64)
    outer_weights, inner_weights = np.empty((size, _TAPS), np.uint16), np.empty((size, _TAPS), np.uint16)
    rows = np.empty((size, max(side, size) * channels + 4), np.uint8)  # 4 spare bytes: pixels move as four
    columns = np.empty((side, size * channels + 4), np.uint8)
    for b in range(batch):
        if index[b] < 0:
            out[b] = 0
            continue
        x, y, w, h = boxes[b]
        image = images[index[b]].reshape(side, side * channels)
        at_y = inner_at if x_first else outer_at
        weights_y = inner_weights if x_first else outer_weights
        at_x = outer_at if x_first else inner_at
        weights_x = outer_weights if x_first else inner_weights
        taps_x = _triangle(np.float64(x) * side, np.float64(w) * side, side, flip[b], at_x, weights_x)
        taps_y = _triangle(np.float64(y) * side, np.float64(h) * side, side, False, at_y, weights_y)
        outer_taps, inner_taps = (taps_x, taps_y) if x_first else (taps_y, taps_x)
        low, high = inner_at.min(), inner_at.max() + inner_taps
        for o in range(size):
            _weighted_sum(image, outer_at[o], outer_weights[o], outer_taps, low * channels, high * channels, rows[o])
        _transpose(rows, columns, low, high, size, channels)
        if x_first:
            target = out[b].reshape(size, size * channels)
            for o in range(size):
                _weighted_sum(columns, inner_at[o], inner_weights[o], inner_taps, 0, size * channels, target[o])
        else:
            for o in range(size):
                _weighted_sum(columns, inner_at[o], inner_weights[o], inner_taps, 0, size * channels, rows[o])
            _transpose_out(rows, out[b])
    return out


@njit(nogil=True, cache=True)
def _triangle(start, length, side, mirrored, at, weights):  # type: ignore[no-untyped-def]
    """Taps of an axis, as Pillow's `precompute_coeffs` for its bilinear (triangle) filter.

    Writes for each output pixel the first input pixel and 8-bit weights that sum to 256, and returns how many taps
    there are: 3 while the box is at most 1.5 times the output.
    """
    size = len(at)
    scale = length / size
    support = max(scale, 1.0)
    taps = min(3 if support <= 1.5 else int(np.ceil(2 * support)) + 1, side, _TAPS)
    raw = np.empty(_TAPS)
    for o in range(size):
        centre = start + (o + 0.5) * scale
        first = min(max(int(centre - support + 0.5), 0), side - taps)
        total = 0.0
        for k in range(taps):
            raw[k] = max(0.0, 1.0 - abs(first + k + 0.5 - centre) / support)
            total += raw[k]
        left, to = _ONE, size - 1 - o if mirrored else o
        for k in range(taps):
            weights[to, k] = int(raw[k] / total * _ONE + 0.5)
            left -= weights[to, k]
        largest = np.argmax(raw[:taps])
        weights[to, largest] += left
        at[to] = first
    return taps


@njit(nogil=True, cache=True)
def _weighted_sum(source, at, weights, taps, low, high, target):  # type: ignore[no-untyped-def]
    """target[low:high] = the `taps` rows of source from `at`, weighted and rounded."""
    if taps == 3:
        _sum3(source[at, low:high], source[at + 1, low:high], source[at + 2, low:high], weights, target[low:high])
        return
    total = np.full(high - low, 128, np.uint16)
    for k in range(taps):
        _add(total, source[at + k, low:high], uint16(weights[k]))
    for j in range(high - low):
        target[low + j] = uint8(total[j] >> uint16(8))


@njit(nogil=True, cache=True)
def _add(total, row, weight):  # type: ignore[no-untyped-def]
    for j in range(len(total)):
        total[j] += uint16(row[j]) * weight


@njit(nogil=True, cache=True)
def _sum3(a, b, c, weights, target):  # type: ignore[no-untyped-def]
    w0, w1, w2 = uint16(weights[0]), uint16(weights[1]), uint16(weights[2])
    for j in range(len(target)):
        target[j] = uint8((uint16(a[j]) * w0 + uint16(b[j]) * w1 + uint16(c[j]) * w2 + uint16(128)) >> uint16(8))


@njit(nogil=True, cache=True)
def _transpose(rows, columns, low, high, size, channels):  # type: ignore[no-untyped-def]
    """columns[i, o] = rows[o, i] by pixel, for low <= i < high, in blocks that stay in the first cache."""
    source, target = rows.ctypes.data, columns.ctypes.data
    source_step, target_step = rows.shape[1], columns.shape[1]
    for block in range(low, high, 16):
        for o in range(size):
            for i in range(block, min(block + 16, high)):
                if channels == 3:
                    _copy4(target + i * target_step + o * 3, source + o * source_step + i * 3)
                else:
                    for c in range(channels):
                        columns[i, o * channels + c] = rows[o, i * channels + c]


@njit(nogil=True, cache=True)
def _transpose_out(rows, out):  # type: ignore[no-untyped-def]
    """out[y, x] = rows[x, y] by pixel."""
    size, _, channels = out.shape
    for y in range(size):
        for x in range(size):
            for c in range(channels):
                out[y, x, c] = rows[x, y * channels + c]
