"""Augmentation on the CPU: numba kernels that run without the GIL, one thread a call; the definition is `oracle.py`.

Both kernels are bound by moving bytes, and fetch the next image into the cache while they make one. A shift is some
vector moves a row. A resized crop is two passes of weighted sums over contiguous bytes in 16-bit integers, with one
transpose by pixel between them; images kept [x, y, c] save a second transpose, and mirroring is only the order in which
the first pass writes.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from trainer_classification.augment.reference import Layout, Uint8, resizes
from trainer_classification.kernels.resize import axes, look_ahead, pixels_at, resize, scratch_for
from trainer_classification.kernels.vector import copy_row, fetch, mirror_row
from trainer_classification.plan import Draws, Int64, Policy


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
    starts = np.where(index < 0, -1, index * (side * side * channels))
    return augment_at(images.reshape(-1), starts, side, draws, policy, layout, out)


def augment_at(
    data: Uint8, starts: Int64, side: int, draws: Draws, policy: Policy, layout: Layout, out: Uint8
) -> Uint8:
    """As `augment`, for images of side x side px that start at these bytes of `data`; -1 is a padding row."""
    size = out.shape[1]
    if resizes(policy, side, size):
        if side > 8 * size:
            raise ValueError(f"Images stored at {side} px are too large for {size}: prepare with --image-size {size}.")
        _resized_crops(data, starts, side, draws.box, draws.flip, layout == "WHC", out)
    elif layout == "HWC":
        _shifts(data, starts, draws.shift, draws.flip, policy.pad == "reflect", out)
    else:
        raise ValueError(f"Shifts need images of layout HWC, these are {layout}: prepare with --image-size {size}.")
    cut_out(out, draws, policy)
    return out


def cut_out(images: Uint8, draws: Draws, policy: Policy) -> None:
    """Blank the square of each image in place, where the policy has one."""
    if policy.cutout:
        _cutouts(images, draws.cutout, policy.cutout, policy.fill)


@njit(nogil=True, cache=True)
def _shifts(data, starts, shift, flip, reflect, out):  # type: ignore[no-untyped-def]
    """Copy B images [S, S, C], shifted by (dy, dx), mirrored where `flip`, reflected or zero outside."""
    batch, side, _, channels = out.shape
    step = side * channels
    for b in range(batch):
        if starts[b] < 0:
            out[b] = 0
            continue
        if b + 1 < batch:  # in random order, so that the machine would not fetch it by itself
            fetch(data.ctypes.data + max(starts[b + 1], 0), side * step)
        dy, dx = int(shift[b, 0]), int(shift[b, 1])
        first, last = max(0, -dx), min(side, side - dx)
        image, target = data.ctypes.data + starts[b], out.ctypes.data + b * side * step
        for y in range(side):
            source = image + _reflected(y + dy, side) * step + (first + dx) * channels
            if flip[b]:
                mirror_row(target + y * step + (side - last) * channels, source, last - first, channels)
            else:
                copy_row(target + y * step + first * channels, source, (last - first) * channels)
        pixels = data[starts[b] : starts[b] + side * step].reshape(side, side, channels)
        _border(pixels, out[b], dy, dx, flip[b], reflect)


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
def _resized_crops(data, starts, side, boxes, flip, x_first, out):  # type: ignore[no-untyped-def]
    """Antialiased bilinear crops of B images [S, S, C] to [T, T, C]."""
    batch, size, _, channels = out.shape
    scratch = scratch_for(side, size, size, channels)
    for b in range(batch):
        if starts[b] < 0:
            out[b] = 0
            continue
        after = b + 1 if b + 1 < batch and starts[b + 1] >= 0 else -1
        address = data.ctypes.data + starts[after] if after >= 0 else 0
        outer, inner = _axes(boxes[after], side, False, x_first)
        look_ahead(pixels_at(address, side * channels, side, side), channels, outer, inner, scratch)
        image = pixels_at(data.ctypes.data + starts[b], side * channels, side, side)
        target = pixels_at(out[b].ctypes.data, size * channels, size, size)
        outer, inner = _axes(boxes[b], side, flip[b], x_first)
        resize(image, channels, outer, inner, scratch, target, not x_first, 1.0)


@njit(nogil=True, inline="always")
def _axes(box, side, mirrored, x_first):  # type: ignore[no-untyped-def]
    """The outer and the inner axis of a box, as `resize` takes them."""
    across, down = axes(box, side, side, mirrored)
    return (across, down) if x_first else (down, across)
