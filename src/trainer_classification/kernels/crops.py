"""Resized crops of a beton's images: decode, crop, resize, mirror in one compiled pass.

A JPEG stays Y, Cb and Cr, chroma as small as it is stored, until the crop has its final size: half the bytes to resize,
and colours are converted for the pixels that are kept alone.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from trainer_classification.kernels.planes import NEUTRAL, colours, plane_at
from trainer_classification.kernels.resize import TAPS, axes, axis, pixels_at, resize, scratch_for
from trainer_classification.kernels.turbojpeg import close_decoder, decode, open_decoder

JPEG = 0  # mode of a beton's image; 1 is raw RGB
NO_MEMORY, TOO_LARGE = -3, -4
_MOST = (TAPS - 1) // 2  # times a crop may be larger than the result


@njit(nogil=True, cache=True)
def crops(data, modes, widths, heights, places, sizes, widest, index, boxes, flip, out):  # type: ignore[no-untyped-def]
    """Antialiased bilinear crops of B images.

    Args:
        data: uint8, the beton.
        modes, widths, heights, places, sizes: [n], of its images.
        widest: the largest of the widths, 1 at least.
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
    scratch = scratch_for(widest, size, size, np.int64(3))
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
            status = _from_raw(content, int(widths[i]), int(heights[i]), boxes[b], flip[b], scratch, made, out[b])
        if status != 0:
            row = b
            break
    close_decoder(decoder)
    return status, row


@njit(nogil=True, cache=True)
def _from_raw(content, width, height, box, flip, scratch, made, out):  # type: ignore[no-untyped-def]
    """A crop of raw RGB; where one channel is wanted, grey was stored three times."""
    size, grey = len(out), out.shape[2] == 1
    across, down = axes(box, width, height, flip)
    if max(across[1], down[1]) > _MOST * size:
        return TOO_LARGE
    image = pixels_at(content.ctypes.data, 3 * width, height, width)
    target = pixels_at(made.ctypes.data if grey else out.ctypes.data, 3 * size, size, size)
    resize(image, 3, down, across, scratch, target, True, 1.0)
    if grey:
        pixels = made.reshape(size, size * 3)
        for y in range(size):
            for x in range(size):
                out[y, x, 0] = pixels[y, 3 * x]
    return 0


@njit(nogil=True, cache=True)
def _from_jpeg(decoder, content, box, flip, buffer, scratch, made, out):  # type: ignore[no-untyped-def]
    """A crop of a JPEG; returns (status, buffer)."""
    size, grey = len(out), out.shape[2] == 1
    # Twice the size: the smaller decodings are sharper than the triangle filter, and that is not to be seen.
    least_width, least_height = np.ceil(2 * size / box[2]), np.ceil(2 * size / box[3])
    status, planes, buffer = decode(decoder, content, least_width, least_height, buffer)
    if status != 0:
        return status, buffer
    across, down = axes(box, planes.width, planes.height, flip)
    if max(across[1], down[1]) > _MOST * size:
        return TOO_LARGE, buffer
    count = 1 if grey or planes.colours == 0 else 3
    for number in range(count):
        target = pixels_at((out if grey else made).ctypes.data + number * size * size, size, size, size)
        image, columns, rows = plane_at(buffer.ctypes.data, planes, number)
        narrow, flat = axis(across[0] / columns, across[1] / columns, flip), axis(down[0] / rows, down[1] / rows, False)
        resize(image, 1, flat, narrow, scratch, target, True, 1.0)
    if not grey:
        made[count:] = NEUTRAL
        colours(made, out)
    return 0, buffer
