"""Crop and resize the images of a beton: decode, crop, resize and mirror in one compiled pass.

A JPEG stays Y, Cb and Cr until the crop has its final size, with chroma as small as it is stored. That is half the
bytes to resize, and only the pixels of the result are converted to RGB.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from trainer_classification.kernels.planes import NEUTRAL, convert_to_rgb, plane_at
from trainer_classification.kernels.resize import TAPS, axes, axis, pixels_at, resize, scratch_for
from trainer_classification.kernels.turbojpeg import close_decoder, decode, open_decoder

JPEG = 0  # mode of an image in a beton; 1 is raw RGB

# Results of `crops`
NO_MEMORY = -3
TOO_LARGE = -4

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
        index: int64 [B], the images of the batch; -1 is a padding row, which becomes zero.
        boxes: float32 [B, 4], x, y, w, h as fractions of the image.
        flip: bool [B].
        out: uint8 [B, T, T, C], written; C is 1 (luma) or 3.

    Returns:
        (0, -1), or an error code of this module or of turbojpeg.py and the row at which it occurred.
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
            status, buffer = _crop_jpeg(decoder, content, boxes[b], flip[b], buffer, scratch, temporary, out[b])
        else:
            width = int(widths[i])
            height = int(heights[i])
            status = _crop_raw(content, width, height, boxes[b], flip[b], scratch, temporary, out[b])
        if status != 0:
            row = b
            break

    close_decoder(decoder)
    return status, row


@njit(nogil=True, cache=True)
def _crop_raw(content, width, height, box, flip, scratch, temporary, out):  # type: ignore[no-untyped-def]
    """Crop raw RGB and return a status. For one channel, any of the three is taken: gray is stored as three equal."""
    size = len(out)
    is_gray = out.shape[2] == 1
    across, down = axes(box, width, height, flip)
    if max(across[1], down[1]) > _MAX_REDUCTION * size:
        return TOO_LARGE

    image = pixels_at(content.ctypes.data, 3 * width, height, width)
    target = pixels_at(temporary.ctypes.data if is_gray else out.ctypes.data, 3 * size, size, size)
    resize(image, 3, down, across, scratch, target, True, 1.0)

    if is_gray:
        pixels = temporary.reshape(size, size * 3)
        for y in range(size):
            for x in range(size):
                out[y, x, 0] = pixels[y, 3 * x]
    return 0


@njit(nogil=True, cache=True)
def _crop_jpeg(decoder, content, box, flip, buffer, scratch, temporary, out):  # type: ignore[no-untyped-def]
    """Crop a JPEG, and return (status, buffer)."""
    size = len(out)
    is_gray = out.shape[2] == 1

    # Decode at twice the size or more: reduced decodings are sharper than the triangle filter, which should not show.
    least_width = np.ceil(2 * size / box[2])
    least_height = np.ceil(2 * size / box[3])
    status, planes, buffer = decode(decoder, content, least_width, least_height, buffer)
    if status != 0:
        return status, buffer

    across, down = axes(box, planes.width, planes.height, flip)
    if max(across[1], down[1]) > _MAX_REDUCTION * size:
        return TOO_LARGE, buffer

    count = 1 if is_gray or planes.has_chroma == 0 else 3
    for number in range(count):
        target_address = (out if is_gray else temporary).ctypes.data + number * size * size
        target = pixels_at(target_address, size, size, size)
        image, columns, rows = plane_at(buffer.ctypes.data, planes, number)
        inner = axis(across[0] / columns, across[1] / columns, flip)
        outer = axis(down[0] / rows, down[1] / rows, False)
        resize(image, 1, outer, inner, scratch, target, True, 1.0)

    if not is_gray:
        temporary[count:] = NEUTRAL
        convert_to_rgb(temporary, out)
    return 0, buffer
