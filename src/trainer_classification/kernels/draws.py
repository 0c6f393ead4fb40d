"""Compute the numbers of a plan without the GIL: boxes of random resized crops, and permutations.

The definitions are `crop_boxes.CropBoxes` and numpy's `Generator.permutation`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from trainer_classification.kernels.entry import entry
from trainer_classification.kernels.vector import prefetch

_TRIES = 10
_FLOATS_PER_BLOCK = 8
_ROUNDS = 10
_AHEAD = 64  # swaps that are prefetched
_MULTIPLIER_0 = np.uint64(0xD2E7470EE14C6C93)
_MULTIPLIER_1 = np.uint64(0xCA5A826395121157)
_WEYL_STEP_0 = np.uint64(0x9E3779B97F4A7C15)
_WEYL_STEP_1 = np.uint64(0xBB67AE8584CAA73B)


@intrinsic
def _high_product(typing_context: Any, a: Any, b: Any) -> Any:
    """Return the upper 64 bits of the product of two uint64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), codegen


@entry
def draw_crop_boxes(key, count, index, sizes, ranges, boxes):  # type: ignore[no-untyped-def]
    """Write the boxes of B samples.

    Args:
        key: uint64 [2], of the stream.
        count: samples of the whole split, n.
        index: int64 [B], sample ids.
        sizes: float64 [B, 2], width and height of their images in px.
        ranges: float64 [6], as `CropBoxes._ranges` returns them.
        boxes: float32 [B, 4], x, y, w, h as fractions of the image, written.
    """
    for row in range(len(index)):
        width = sizes[row, 0]
        height = sizes[row, 1]
        w, h, tried = _try(key, count, index[row], width, height, ranges)

        if tried < _TRIES:
            u_x = _uniform(key, (2 * count + index[row]) * _TRIES + tried)
            u_y = _uniform(key, (3 * count + index[row]) * _TRIES + tried)
            x = np.floor(u_x * (width - w + 1))
            y = np.floor(u_y * (height - h + 1))
        else:
            w = max(1.0, np.rint(min(width, height * ranges[5])))
            h = max(1.0, np.rint(min(height, width / ranges[4])))
            x = np.floor((width - w) / 2)
            y = np.floor((height - h) / 2)

        boxes[row, 0] = min(x, width - w) / width
        boxes[row, 1] = min(y, height - h) / height
        boxes[row, 2] = w / width
        boxes[row, 3] = h / height


@njit(nogil=True, cache=True)
def _try(key, count, sample, width, height, ranges):  # type: ignore[no-untyped-def]
    """Return width, height and number of the first try that fits; number _TRIES where none does."""
    w = 0.0
    h = 0.0
    for number in range(_TRIES):
        u_area = _uniform(key, sample * _TRIES + number)
        u_aspect = _uniform(key, (count + sample) * _TRIES + number)
        area = (ranges[0] + ranges[1] * u_area) * (width * height)
        ratio = np.exp(ranges[2] + ranges[3] * u_aspect)
        w = np.rint(np.sqrt(area * ratio))
        h = np.rint(np.sqrt(area / ratio))
        if 1 <= w <= width and 1 <= h <= height:
            return w, h, number
    return w, h, _TRIES


@njit(nogil=True, cache=True)
def _uniform(key, position):  # type: ignore[no-untyped-def]
    """Return one number of the stream, 0 <= u < 1: each word gives two float32."""
    block = _philox(key, np.uint64(position // _FLOATS_PER_BLOCK))
    half = position % _FLOATS_PER_BLOCK
    word = block[3]
    if half < 2:
        word = block[0]
    elif half < 4:
        word = block[1]
    elif half < 6:
        word = block[2]
    bits = word >> np.uint64(32) if half % 2 else word & np.uint64(0xFFFFFFFF)
    return np.float64(bits >> np.uint64(8)) * 2.0**-24


@njit(nogil=True, cache=True)
def _philox(key, number):  # type: ignore[no-untyped-def]
    """Return the four words of a block of the stream (Philox4x64-10)."""
    a = number + np.uint64(1)  # numpy's first counter is 1
    b = np.uint64(0)
    c = np.uint64(0)
    d = np.uint64(0)
    key_0 = key[0]
    key_1 = key[1]
    for _ in range(_ROUNDS):
        high_0 = _high_product(_MULTIPLIER_0, a)
        high_1 = _high_product(_MULTIPLIER_1, c)
        low_0 = _MULTIPLIER_0 * a
        low_1 = _MULTIPLIER_1 * c
        a = high_1 ^ b ^ key_0
        c = high_0 ^ d ^ key_1
        b = low_1
        d = low_0
        key_0 += _WEYL_STEP_0
        key_1 += _WEYL_STEP_1
    return a, b, c, d


@entry
def permute(key, order):  # type: ignore[no-untyped-def]
    """Shuffle an array as `Generator(Philox(key)).shuffle` does.

    The places to swap are drawn some in advance and prefetched: otherwise each swap
    of a large array waits for the memory.

    Args:
        key: uint64 [2], of the stream.
        order: int64 [n], n below 2**32, shuffled in place.
    """
    places = np.empty(_AHEAD, np.int64)
    words = np.empty(8, np.uint64)  # halves of the current block
    used = 8
    block = np.uint64(0)
    mask = np.int64(0xFFFFFFFF)
    start = order.ctypes.data
    last = len(order) - 1
    while last > 0:
        count = min(_AHEAD, last)
        for ahead in range(count):
            # The bits that the largest place has; larger numbers are drawn again.
            largest = last - ahead
            while mask >> 1 >= largest:
                mask >>= 1
            place = mask + 1
            while place > largest:
                if used == 8:
                    _split_block(key, block, words)
                    block += np.uint64(1)
                    used = 0
                place = np.int64(words[used]) & mask
                used += 1
            places[ahead] = place
            prefetch(np.uintp(start + 8 * places[ahead]))

        for ahead in range(count):
            here = last - ahead
            there = places[ahead]
            order[here], order[there] = order[there], order[here]
        last -= count


@njit(nogil=True, cache=True)
def _split_block(key, number, words):  # type: ignore[no-untyped-def]
    """Write the eight 32-bit numbers of a block, in the order in which numpy gives them."""
    block = _philox(key, number)
    for word in range(4):
        words[2 * word] = block[word] & np.uint64(0xFFFFFFFF)
        words[2 * word + 1] = block[word] >> np.uint64(32)
