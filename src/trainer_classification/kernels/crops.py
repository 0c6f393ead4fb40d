"""Crop and resize the images of a beton: decode, crop, resize and mirror in one compiled pass.

A JPEG stays Y, Cb and Cr until the crop has its final size, with chroma as small
as it is stored. That is half the bytes to resize, and only the pixels of the
result are converted to RGB.
"""

from __future__ import annotations

import numpy as np
from numba import int64, njit, uint8

from trainer_classification.kernels.planes import NEUTRAL, convert_to_rgb, plane_at
from trainer_classification.kernels.resize import TAPS, axes, axis, pixels_at, resize, scratch_for
from trainer_classification.kernels.turbojpeg import close_decoder, decode, open_decoder
from trainer_classification.kernels.vector import byte_at, put_byte

JPEG = 0  # mode of an image in a beton; 1 is raw RGB

NO_MEMORY = -3  # a result of `crops`

_MAX_REDUCTION = (TAPS - 1) // 2  # of a crop; the filter has no more taps


@njit(nogil=True, cache=True)
def crops(data, modes, widths, heights, offsets, sizes, widest, index, boxes, flip, out):  # type: ignore[no-untyped-def]
    """Write antialiased bilinear crops of B images.

    Args:
        data: uint8, the beton.
        modes: [n], JPEG or raw, of each image of the beton.
        widths: [n], px.
        heights: [n], px.
        offsets: [n], where each image starts in `data`, in bytes.
        sizes: [n], bytes.
        widest: the largest of the widths, 1 or more.
        index: int64 [B], the images of the batch; -1 is a padding row, which
            becomes zero.
        boxes: float32 [B, 4], x, y, w, h as fractions of the image.
        flip: bool [B].
        out: uint8 [B, T, T, C], written; C is 1 (luma) or 3.

    Returns:
        (0, -1), or an error code of this module or of turbojpeg.py and the row at
        which it occurred.
    """
    size = out.shape[1]
    decoder = open_decoder()
    if decoder == 0:
        return NO_MEMORY, 0

    buffer = np.empty(0, np.uint8)
    temporary = np.empty((3, size, size), np.uint8)
    scratch = scratch_for(widest, size, size, np.int64(3))
    status = 0
    row = -1
    for b in range(len(index)):
        if index[b] < 0:
            out[b] = 0
            continue

        i = index[b]
        content = data[offsets[i] : offsets[i] + sizes[i]]
        if modes[i] == JPEG:
            status, buffer = _crop_jpeg(
                decoder, content, boxes[b], flip[b], buffer, scratch, temporary, out[b]
            )
        else:
            width = int(widths[i])
            height = int(heights[i])
            across, down = axes(boxes[b], width, height, flip[b])
            if max(across[1], down[1]) > _MAX_REDUCTION * size:
                content = content.copy()  # it is halved in place
            _crop_raw(content, width, height, boxes[b], flip[b], scratch, temporary, out[b])
        if status != 0:
            row = b
            break

    close_decoder(decoder)

    return status, row


@njit(nogil=True, cache=True)
def _crop_raw(content, width, height, box, flip, scratch, temporary, out):  # type: ignore[no-untyped-def]
    """Crop raw RGB, which is written to if the crop is more than 8 times as large as the result.

    For one channel, any of the three is taken: gray is stored as three equal.
    """
    size = len(out)
    is_gray = out.shape[2] == 1
    across, down = axes(box, width, height, flip)
    image = pixels_at(content.ctypes.data, 3 * width, height, width)
    image, down, across = _halve(image, 3, down, across, size)
    target = pixels_at(temporary.ctypes.data if is_gray else out.ctypes.data, 3 * size, size, size)
    resize(image, 3, down, across, scratch, target, True, 1.0)

    if is_gray:
        pixels = temporary.reshape(size, size * 3)
        for y in range(size):
            for x in range(size):
                out[y, x, 0] = pixels[y, 3 * x]


@njit(nogil=True, cache=True)
def _crop_jpeg(decoder, content, box, flip, buffer, scratch, temporary, out):  # type: ignore[no-untyped-def]
    """Crop a JPEG, and return (status, buffer)."""
    size = len(out)
    is_gray = out.shape[2] == 1

    # Decode at twice the size or more: reduced decodings are sharper than the
    # triangle filter, which should not show.
    least_width = np.ceil(2 * size / box[2])
    least_height = np.ceil(2 * size / box[3])
    status, planes, buffer = decode(decoder, content, least_width, least_height, buffer)
    if status != 0:
        return status, buffer

    across, down = axes(box, planes.width, planes.height, flip)
    count = 1 if is_gray or planes.has_chroma == 0 else 3
    for number in range(count):
        target_address = (out if is_gray else temporary).ctypes.data + number * size * size
        target = pixels_at(target_address, size, size, size)
        image, columns, rows = plane_at(buffer.ctypes.data, planes, number)
        inner = axis(across[0] / columns, across[1] / columns, flip)
        outer = axis(down[0] / rows, down[1] / rows, False)
        image, outer, inner = _halve(image, 1, outer, inner, size)
        resize(image, 1, outer, inner, scratch, target, True, 1.0)

    if not is_gray:
        temporary[count:] = NEUTRAL
        convert_to_rgb(temporary, out)
    return 0, buffer


@njit(nogil=True, cache=True)
def _halve(image, channels, outer, inner, size):  # type: ignore[no-untyped-def]
    """Halve an image in place, each axis as often as it takes until the filter can reduce the crop.

    That is needed for panoramas, and for crops many times as large as their
    result.

    Returns:
        (image, outer, inner): Pixels and the axes of the crop in it.
    """
    while inner[1] > _MAX_REDUCTION * size:
        _halve_columns(image, channels)
        image = pixels_at(image.address, image.step, image.rows, (image.columns + 1) // 2)
        inner = axis(inner[0] / 2, inner[1] / 2, inner[2])
    while outer[1] > _MAX_REDUCTION * size:
        _halve_rows(image, channels)
        image = pixels_at(image.address, image.step, (image.rows + 1) // 2, image.columns)
        outer = axis(outer[0] / 2, outer[1] / 2, outer[2])

    return image, outer, inner


@njit(nogil=True, cache=True)
def _halve_columns(image, channels):  # type: ignore[no-untyped-def]
    for y in range(image.rows):
        row = image.address + y * image.step
        for x in range(0, image.columns, 2):
            next_x = min(x + 1, image.columns - 1)
            for channel in range(channels):
                total = int64(byte_at(row + x * channels + channel)) + byte_at(
                    row + next_x * channels + channel
                )
                put_byte(row + (x // 2) * channels + channel, uint8((total + 1) // 2))


@njit(nogil=True, cache=True)
def _halve_rows(image, channels):  # type: ignore[no-untyped-def]
    for y in range(0, image.rows, 2):
        upper = image.address + y * image.step
        lower = image.address + min(y + 1, image.rows - 1) * image.step
        target = image.address + (y // 2) * image.step
        for x in range(image.columns * channels):
            total = int64(byte_at(upper + x)) + byte_at(lower + x)
            put_byte(target + x, uint8((total + 1) // 2))
