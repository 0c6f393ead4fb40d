"""Augment on the CPU: numba kernels that run without the GIL, one thread a call.

`reference.py` is the definition.

Both kernels are limited by memory bandwidth, and prefetch the next image while
they process one. A shift takes a few vector moves a row. A resized crop takes two
passes of weighted sums over contiguous bytes in 16-bit integers, with a transpose
by pixel between them. Images stored as [x, y, c] save a second transpose.
Mirroring only changes the order in which the first pass writes.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from trainer_classification.arrays import Int64, Uint8
from trainer_classification.augment.reference import (
    Layout,
    blanked_boxes,
    resizes,
    stored_shape,
)
from trainer_classification.kernels.entry import entry
from trainer_classification.kernels.planes import convert_to_rgb
from trainer_classification.kernels.resize import (
    axes,
    look_ahead,
    pixels_at,
    resize,
    resize_alike,
    scratch_for,
)
from trainer_classification.kernels.vector import copy_row, fetch, mirror_row
from trainer_classification.plan import Draws, Policy

_MAX_REDUCTION = 8  # of a resized crop; the filter has no more taps
_IMAGES_AHEAD = 2  # that are prefetched, in a shift


def augment(
    images: Uint8,
    index: Int64,
    draws: Draws,
    policy: Policy,
    size: int,
    layout: Layout = "HWC",
    out: Uint8 | None = None,
) -> Uint8:
    """Augment a batch as `reference.augment` does; padding rows become zero.

    Args:
        images: uint8 [N, S, S, C], or [N, S * S * 3 / 2] for layout "YCC",
            contiguous.
        index: int64 [B], the images of the batch; -1 is a padding row.
        draws: of the batch, B rows.
        policy: the one that `draws` was drawn by.
        size: side T in px of the images to return.
        layout: order of an image's bytes.
        out: uint8 [B, T, T, C], contiguous, is written and returned; None to
            allocate it.

    Raises:
        ValueError: the stored images are of the wrong size or layout for the
            policy.
    """
    side, channels = stored_shape(images.shape, layout)
    if out is None:
        out = np.empty((len(index), size, size, channels), np.uint8)
    assert images.flags.c_contiguous
    assert out.flags.c_contiguous

    starts = np.where(index < 0, -1, index * images.strides[0])

    return augment_at(images.reshape(-1), starts, side, draws, policy, layout, out)


def augment_at(
    data: Uint8, starts: Int64, side: int, draws: Draws, policy: Policy, layout: Layout, out: Uint8
) -> Uint8:
    """Augment images that lie anywhere in one buffer, as `augment` does.

    Args:
        data: uint8 [n], the buffer.
        starts: int64 [B], offset of each image in bytes; -1 is a padding row.
        side: of the images in px.
        draws: of the batch, B rows.
        policy: the one that `draws` was drawn by.
        layout: order of an image's bytes.
        out: uint8 [B, T, T, C], contiguous, written and returned.

    Raises:
        ValueError: the stored images are of the wrong size or layout for the
            policy.
    """
    size = out.shape[1]
    if resizes(policy, side, size):
        if side > _MAX_REDUCTION * size:
            raise ValueError(
                f"Images stored at {side} px are too large for {size}: prepare with --image-size {size}."
            )
        if layout == "YCC":
            _crop_planes(data, starts, side, draws.box, draws.flip, out)
        else:
            _crop_images(data, starts, side, draws.box, draws.flip, layout == "WHC", out)
    elif layout == "HWC":
        _shift_images(data, starts, draws.shift, draws.flip, policy.pad == "reflect", out)
    else:
        raise ValueError(
            f"Shifts need images of layout HWC, these are {layout}: prepare with --image-size {size}."
        )

    finish(out, draws, policy)

    return out


def finish(images: Uint8, draws: Draws, policy: Policy) -> None:
    """Do in place what follows crop, shift and flip: operations, colors, then blanked boxes.

    Args:
        images: uint8 [B, T, T, C].
        draws: of the batch, B rows.
        policy: the one that `draws` was drawn by.
    """
    if policy.rand_augment:
        _operate(images, draws.operations, policy.fill)
    if policy.color_jitter:
        _jitter_colors(images, draws.color)
    for boxes in blanked_boxes(draws, policy, images.shape[1]):
        _blank(images, boxes, policy.fill)


@entry
def _shift_images(data, starts, shift, flip, reflect, out):  # type: ignore[no-untyped-def]
    """Copy B images [S, S, C], shifted by (dy, dx) and mirrored where `flip`, reflected or zero outside."""
    batch, side, _, channels = out.shape
    step = side * channels
    for b in range(batch):
        if starts[b] < 0:
            out[b] = 0
            continue

        # The order of the images is random, so the hardware cannot prefetch them.
        # Memory answers later than one image is copied, and not to all lines at once.
        ahead = data.ctypes.data + max(starts[min(b + _IMAGES_AHEAD, batch - 1)], 0)

        dy = int(shift[b, 0])
        dx = int(shift[b, 1])
        first = max(0, -dx)
        last = min(side, side - dx)
        image = data.ctypes.data + starts[b]
        target = out.ctypes.data + b * side * step

        for y in range(side):
            fetch(ahead + y * step, step)
            source = image + _reflect(y + dy, side) * step + (first + dx) * channels
            if flip[b]:
                mirror_row(
                    target + y * step + (side - last) * channels, source, last - first, channels
                )
            else:
                copy_row(target + y * step + first * channels, source, (last - first) * channels)

        pixels = data[starts[b] : starts[b] + side * step].reshape(side, side, channels)
        _fill_border(pixels, out[b], dy, dx, flip[b], reflect)


@njit(nogil=True, cache=True, inline="always")
def _reflect(index, side):  # type: ignore[no-untyped-def]
    """Return the pixel that an index shows if the image is mirrored at its first and last pixel."""
    if index < 0:
        return -index
    if index >= side:
        return 2 * side - 2 - index
    return index


@njit(nogil=True, cache=True)
def _fill_border(image, target, dy, dx, mirrored, reflect):  # type: ignore[no-untyped-def]
    """Fill the |dx| columns that the row copies left out, and the |dy| rows if the outside is zero."""
    side = len(image)
    for x in range(side):
        if 0 <= x + dx < side:
            continue
        target_x = side - 1 - x if mirrored else x
        source_x = _reflect(x + dx, side)
        for y in range(side):
            source_y = _reflect(y + dy, side)
            for c in range(image.shape[2]):
                target[y, target_x, c] = image[source_y, source_x, c] if reflect else 0

    if not reflect:
        target[: max(0, -dy)] = 0
        target[side - max(0, dy) :] = 0


@entry
def _blank(images, boxes, fill):  # type: ignore[no-untyped-def]
    """Blank a box of each image in place."""
    for b in range(len(images)):
        top, left, bottom, right = boxes[b]
        images[b, top:bottom, left:right] = fill


@entry
def _jitter_colors(images, factors):  # type: ignore[no-untyped-def]
    """Change brightness, contrast and saturation of each image in place, in whole numbers."""
    batch, height, width, channels = images.shape
    for b in range(batch):
        _jitter_image(images[b].reshape(height * width, channels), factors[b])


@njit(nogil=True, cache=True)
def _jitter_image(image, factors):  # type: ignore[no-untyped-def]
    """Change the colors of an image [pixels, C] in place."""
    pixels, channels = image.shape
    brightness = np.int32(factors[0])
    contrast = np.int32(factors[1])
    saturation = np.int32(factors[2])

    total = 0
    for i in range(pixels):
        for c in range(channels):
            image[i, c] = _round_to_byte(image[i, c] * brightness)
        total += _to_gray(image[i])
    mean = np.int32((total + pixels // 2) // pixels)

    offset = mean * (np.int32(256) - contrast)
    for i in range(pixels):
        for c in range(channels):
            image[i, c] = _round_to_byte(image[i, c] * contrast + offset)
        gray = _to_gray(image[i]) * (np.int32(256) - saturation)
        for c in range(channels):
            image[i, c] = _round_to_byte(image[i, c] * saturation + gray)


@entry
def _operate(images, operations, fill):  # type: ignore[no-untyped-def]
    """Do the operations of each image in place, one after the other."""
    batch, size, _, channels = images.shape
    before = np.empty((size, size, channels), np.uint8)
    for b in range(batch):
        image = images[b]
        pixels = image.reshape(size * size, channels)
        for n in range(operations.shape[1]):
            operation = operations[b, n]
            if _moves_pixels(operation):
                before[:] = image
                _warp(before, operation, fill, image)
            if operation[6] != 256 or operation[7] != 256 or operation[8] != 256:
                _jitter_image(pixels, operation[6:9])
            if operation[9] != 255 or operation[10] != 256:
                _quantize(pixels, operation[9], operation[10])
            if operation[11]:
                _stretch(pixels)


@njit(nogil=True, inline="always")
def _moves_pixels(operation):  # type: ignore[no-untyped-def]
    """Return whether matrix or shift change anything."""
    turns = operation[0] != 65536 or operation[3] != 65536
    return turns or operation[1] or operation[2] or operation[4] or operation[5]


@njit(nogil=True, cache=True)
def _warp(image, operation, fill, out):  # type: ignore[no-untyped-def]
    """Write an image [T, T, C] as a matrix and a shift move its pixels."""
    size = len(image)
    half = np.int64(size) << 16
    shift_y = 2 * size * np.int64(operation[4]) + half
    shift_x = 2 * size * np.int64(operation[5]) + half
    for row in range(size):
        v = 2 * row - (size - 1)
        for column in range(size):
            u = 2 * column - (size - 1)
            y = (operation[0] * v + operation[1] * u + shift_y) >> 17
            x = (operation[2] * v + operation[3] * u + shift_x) >> 17
            if 0 <= y < size and 0 <= x < size:
                out[row, column] = image[y, x]
            else:
                out[row, column] = fill


@njit(nogil=True, cache=True)
def _quantize(pixels, kept, threshold):  # type: ignore[no-untyped-def]
    """Keep some bits of each value, and invert those from a threshold on, in place."""
    for i in range(len(pixels)):
        for c in range(pixels.shape[1]):
            value = pixels[i, c] & kept
            pixels[i, c] = 255 - value if value >= threshold else value


@njit(nogil=True, cache=True)
def _stretch(pixels):  # type: ignore[no-untyped-def]
    """Stretch each channel to 0..255 in place."""
    for c in range(pixels.shape[1]):
        low = np.int64(pixels[:, c].min())
        span = np.int64(pixels[:, c].max()) - low
        if span == 0:
            continue
        for i in range(len(pixels)):
            pixels[i, c] = ((pixels[i, c] - low) * 255 + span // 2) // span


@njit(nogil=True, inline="always")
def _round_to_byte(value):  # type: ignore[no-untyped-def]
    """Return a value in 1/256 as a byte."""
    return np.uint8(min(max((value + np.int32(128)) >> np.int32(8), 0), 255))


@njit(nogil=True, inline="always")
def _to_gray(pixel):  # type: ignore[no-untyped-def]
    """Return the luma of a pixel of 3 channels, else its first channel."""
    if len(pixel) != 3:
        return np.int32(pixel[0])
    red = np.int32(77) * pixel[0]
    green = np.int32(150) * pixel[1]
    blue = np.int32(29) * pixel[2]
    return np.int32((red + green + blue + np.int32(128)) >> np.int32(8))


@entry
def _crop_images(data, starts, side, boxes, flip, x_first, out):  # type: ignore[no-untyped-def]
    """Crop B images [S, S, C] to [T, T, C] with antialiased bilinear resizing."""
    batch, size, _, channels = out.shape
    step = side * channels
    scratch = scratch_for(side, size, size, channels)
    for b in range(batch):
        if starts[b] < 0:
            out[b] = 0
            continue

        # Announce the next image, so that it is prefetched; address 0 means that
        # there is none.
        following = b + 1 if b + 1 < batch and starts[b + 1] >= 0 else -1
        address = data.ctypes.data + starts[following] if following >= 0 else 0
        outer, inner = _order_axes(boxes[following], side, False, x_first)
        look_ahead(pixels_at(address, step, side, side), channels, outer, inner, scratch)

        image = pixels_at(data.ctypes.data + starts[b], step, side, side)
        target = pixels_at(out[b].ctypes.data, size * channels, size, size)
        outer, inner = _order_axes(boxes[b], side, flip[b], x_first)
        resize(image, channels, outer, inner, scratch, target, not x_first, 1.0)


@njit(nogil=True, inline="always")
def _order_axes(box, side, mirrored, x_first):  # type: ignore[no-untyped-def]
    """Return the outer and the inner axis of a box, as `resize` takes them."""
    across, down = axes(box, side, side, mirrored)
    if x_first:
        return across, down
    return down, across


@entry
def _crop_planes(data, starts, side, boxes, flip, out):  # type: ignore[no-untyped-def]
    """Crop B images of planes (`kernels.planes.store_x_first`) to [T, T, 3], and make them RGB last."""
    batch, size, _, _ = out.shape
    half = side // 2
    blue = side * side  # where the plane starts
    red = blue + half * half
    channels = np.int64(1)
    scratch = scratch_for(side, size, size, channels)
    crop = np.empty((3, size, size), np.uint8)
    for b in range(batch):
        if starts[b] < 0:
            out[b] = 0
            continue

        following = b + 1 if b + 1 < batch and starts[b + 1] >= 0 else -1
        ahead = data.ctypes.data + starts[following] if following >= 0 else 0
        address = data.ctypes.data + starts[b]

        outer, inner = _order_axes(boxes[following], side, False, True)
        look_ahead(pixels_at(ahead, side, side, side), channels, outer, inner, scratch)
        outer, inner = _order_axes(boxes[b], side, flip[b], True)
        image = pixels_at(address, side, side, side)
        target = pixels_at(crop[0].ctypes.data, size, size, size)
        resize(image, channels, outer, inner, scratch, target, False, 1.0)

        outer, inner = _order_axes(boxes[following], half, False, True)
        look_ahead(_chroma_at(ahead, blue, half), channels, outer, inner, scratch)
        outer, inner = _order_axes(boxes[b], half, flip[b], True)
        target = pixels_at(crop[1].ctypes.data, size, size, size)
        image = _chroma_at(address, blue, half)
        taps = resize(image, channels, outer, inner, scratch, target, False, 1.0)

        outer, inner = _order_axes(boxes[following], half, False, True)
        look_ahead(_chroma_at(ahead, red, half), channels, outer, inner, scratch)
        target = pixels_at(crop[2].ctypes.data, size, size, size)
        resize_alike(_chroma_at(address, red, half), channels, taps, scratch, target, False)

        convert_to_rgb(crop, out[b])


@njit(nogil=True, inline="always")
def _chroma_at(address, offset, side):  # type: ignore[no-untyped-def]
    """Return the Pixels of a plane of an image; address 0 if there is no image."""
    return pixels_at(address + offset if address else 0, side, side, side)
