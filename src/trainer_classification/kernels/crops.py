"""Resized crops of a beton's images: decode, crop, resize, mirror in one compiled pass.

A JPEG stays Y, Cb and Cr, chroma as small as it is stored, until the crop has its final size: half the bytes to resize,
and colours are converted for the pixels that are kept alone.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from trainer_classification.kernels.resize import TAPS, resize_upright, scratch_for
from trainer_classification.kernels.turbojpeg import close_decoder, decode, open_decoder
from trainer_classification.kernels.vector import RGB, rgb_vector

JPEG = 0  # mode of a beton's image; 1 is raw RGB
NO_MEMORY, TOO_LARGE = -3, -4
_MOST = (TAPS - 1) // 2  # times a crop may be larger than the result
NEUTRAL = np.uint8(128)  # chroma of grey


@njit(nogil=True, cache=True)
def crops(data, modes, widths, heights, places, sizes, index, boxes, flip, out):  # type: ignore[no-untyped-def]
    """Antialiased bilinear crops of B images.

    Args:
        data: uint8, the beton.
        modes, widths, heights, places, sizes: [n], of its images.
        index: int64 [B], which ones; -1 is a padding row, which becomes zero.
        boxes: float32 [B, 4], x, y, w, h as fractions of the image.
        flip: bool [B].
        out: uint8 [B, T, T, C], written; C is 1 (luma) or 3.

    Returns:
        (0, -1), or why it failed and the row at which it did.
    """
    size = out.shape[1]
    decoder = open_decoder()
    if decoder == 0:
        return NO_MEMORY, 0
    buffer, made = np.empty(0, np.uint8), np.empty((3, size, size), np.uint8)
    widest = max(1, int(widths.max()))
    scratch, coloured = scratch_for(widest, size, size, 1), scratch_for(widest, size, size, 3)
    status, row = 0, -1
    for b in range(len(index)):
        if index[b] < 0:
            out[b] = 0
            continue
        i = index[b]
        content = data[places[i] : places[i] + sizes[i]]
        if modes[i] == JPEG:
            status, buffer = _from_jpeg(decoder, content, boxes[b], flip[b], buffer, scratch, made, out[b])
        else:
            status = _from_raw(content, int(widths[i]), int(heights[i]), boxes[b], flip[b], coloured, made, out[b])
        if status != 0:
            row = b
            break
    close_decoder(decoder)
    return status, row


@njit(nogil=True, cache=True)
def _from_raw(content, width, height, box, flip, scratch, made, out):  # type: ignore[no-untyped-def]
    """A crop of raw RGB; where one channel is wanted, grey was stored three times."""
    size, channels = out.shape[0], out.shape[2]
    across, down = _axis(box[0], box[2], width, flip), _axis(box[1], box[3], height, False)
    if max(across[1], down[1]) > _MOST * size:
        return TOO_LARGE
    image = content.reshape(height, width * 3)
    if channels == 3:
        resize_upright(image, 3, down, across, scratch, out.reshape(size, size * 3))
        return 0
    pixels = made.reshape(size, size * 3)
    resize_upright(image, 3, down, across, scratch, pixels)
    for y in range(size):
        for x in range(size):
            out[y, x, 0] = pixels[y, 3 * x]
    return 0


@njit(nogil=True, cache=True)
def _from_jpeg(decoder, content, box, flip, buffer, scratch, made, out):  # type: ignore[no-untyped-def]
    """A crop of a JPEG; returns (status, buffer)."""
    size = out.shape[0]
    # Twice the size: the smaller decodings are sharper than the triangle filter, and that is not to be seen.
    least_width, least_height = np.ceil(2 * size / box[2]), np.ceil(2 * size / box[3])
    status, planes, buffer = decode(decoder, content, least_width, least_height, buffer)
    if status != 0:
        return status, buffer
    across, down = _axis(box[0], box[2], planes.width, flip), _axis(box[1], box[3], planes.height, False)
    if max(across[1], down[1]) > _MOST * size:
        return TOO_LARGE, buffer
    _plane(buffer, 0, planes.stride, planes.width, planes.height, across, down, scratch, made[0])
    if out.shape[2] == 1:
        out[:, :, 0] = made[0]
        return 0, buffer
    if planes.colours == 0:
        made[1:] = NEUTRAL
    else:
        width, height = -(-planes.width // planes.across), -(-planes.height // planes.down)
        across = (across[0] / planes.across, across[1] / planes.across, flip)
        down = (down[0] / planes.down, down[1] / planes.down, False)
        for number, start in ((1, planes.blue), (2, planes.red)):
            _plane(buffer, start, planes.chroma_stride, width, height, across, down, scratch, made[number])
    _colours(made, out)
    return 0, buffer


@njit(nogil=True, cache=True, inline="always")
def _axis(start, length, side, mirrored):  # type: ignore[no-untyped-def]
    """(start, length, mirrored) in px of an axis."""
    return np.float64(start) * side, np.float64(length) * side, mirrored


@njit(nogil=True, cache=True)
def _plane(buffer, start, stride, width, height, across, down, scratch, out):  # type: ignore[no-untyped-def]
    """A crop of one plane: uint8 [T, T]."""
    image = buffer[start : start + stride * height].reshape(height, stride)[:, :width]
    resize_upright(image, 1, down, across, scratch, out)


@njit(nogil=True, cache=True)
def _colours(planes, out):  # type: ignore[no-untyped-def]
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
