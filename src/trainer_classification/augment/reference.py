"""Define the augmentation: slow and plain, one image at a time.

The fast versions are tested against it.

`augment` here, in `cpu.py` (numba) and in `device.py` (torch) share one
signature. Shifts, flips, colors and blanked boxes are exact. Resized crops are those of
Pillow's antialiased bilinear `resize(box=...)`, up to rounding.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from trainer_classification.arrays import Float32, Int8, Int16, Int32, Int64, Uint8
from trainer_classification.plan import COLOR_UNIT, GEOMETRY_UNIT, Draws, Policy

Layout = Literal["HWC", "WHC", "YCC"]


def augment(
    images: Uint8, index: Int64, draws: Draws, policy: Policy, size: int, layout: Layout = "HWC"
) -> Uint8:
    """Crop, shift, mirror, color and blank the images of a batch as drawn.

    Args:
        images: uint8 [N, S, S, C], the whole split. An image is [y, x, c], or [x,
            y, c] for layout "WHC". uint8 [N, S * S * 3 / 2] for layout "YCC": Y,
            then Cb and Cr at half the side, each [x, y].
        index: int64 [B], the images of the batch; -1 is a padding row, whose
            pixels do not matter.
        draws: of the batch, B rows.
        policy: the one that `draws` was drawn by.
        size: side T in px of the images to return.
        layout: order of an image's bytes.

    Returns:
        uint8 [B, T, T, C].
    """
    boxes = blanked_boxes(draws, policy, size)
    is_resized = resizes(policy, stored_shape(images.shape, layout)[0], size)
    rows = []
    for row, sample in enumerate(index):
        image = images[sample]
        if layout == "WHC":
            image = image.swapaxes(0, 1)
        if layout == "YCC":
            image = crop_planes(image, draws.box[row], size)
        elif is_resized:
            image = resized_crop(image, draws.box[row], size)
        else:
            image = shift_image(image, draws.shift[row], policy.pad)

        if draws.flip[row]:
            image = image[:, ::-1]
        for operation in draws.operations[row]:
            image = operate(image, operation, policy.fill)
        if policy.color_jitter:
            image = jitter_colors(image, draws.color[row])
        rows.append(blank(image, [box[row] for box in boxes], policy.fill))

    return np.stack(rows)


def stored_shape(shape: tuple[int, ...], layout: Layout) -> tuple[int, int]:
    """Return side in px and channels of the images, given the shape of all; see `augment`."""
    if layout == "YCC":
        return math.isqrt(shape[1] * 2 // 3), 3
    return shape[1], shape[3]


def resizes(policy: Policy, side: int, size: int) -> bool:
    """Return True if pixels are interpolated, False if they are only copied.

    Args:
        policy: how images are augmented.
        side: of the stored images in px.
        size: side in px of the images to return.

    Raises:
        ValueError: images cannot be shifted, because they are stored at another
            size or are no larger than the shift.
    """
    if policy.crop == "shift" and side != size:
        raise ValueError(
            f"Images stored at {side} px cannot be shifted at {size}: prepare with --image-size {size}."
        )
    if policy.crop == "shift" and policy.shift >= side:
        raise ValueError(
            f"Images of {side} px cannot be shifted by {policy.shift}: use --shift {side - 1} or less."
        )
    return policy.crop == "resized" or side != size


def shift_image(image: Uint8, shift: Int8, pad: Literal["reflect", "zero"]) -> Uint8:
    """Return the image whose pixel (y, x) is the given image's pixel (y + dy, x + dx).

    Args:
        image: uint8 [S, S, C].
        shift: int8 [2], dy and dx in px.
        pad: what lies outside of the image: its reflection, or zeros.
    """
    side = len(image)
    largest = int(np.abs(shift).max(initial=0))
    margins = ((largest, largest), (largest, largest), (0, 0))
    padded = np.pad(image, margins, "reflect" if pad == "reflect" else "constant")
    y, x = shift + largest

    return padded[y : y + side, x : x + side]


def resized_crop(image: Uint8, box: Float32, size: int) -> Uint8:
    """Return a box of the image, resized with antialiasing.

    Args:
        image: uint8 [H, W, C].
        box: float32 [4], x, y, w, h as fractions of the image.
        size: side in px of the image to return.
    """
    from PIL import Image  # the fast versions import this module, on machines that may lack Pillow

    height, width, channels = image.shape
    x, y, w, h = (box.astype(np.float64) * (width, height, width, height)).tolist()
    edges = (x, y, min(x + w, width), min(y + h, height))

    picture = Image.fromarray(np.ascontiguousarray(image if channels > 1 else image[:, :, 0]))
    resized = picture.resize((size, size), Image.Resampling.BILINEAR, box=edges)

    return np.asarray(resized).reshape(size, size, channels)


def crop_planes(image: Uint8, box: Float32, size: int) -> Uint8:
    """Return a box of an image of layout "YCC", resized with antialiasing and then converted to RGB.

    The colors are those of JPEG files (ITU-T T.871), rounded half up.

    Args:
        image: uint8 [S * S * 3 / 2].
        box: float32 [4], x, y, w, h as fractions of the image.
        size: side in px of the image to return.
    """
    side, _ = stored_shape((1, *image.shape), "YCC")
    half = side // 2
    parts = np.split(image, [side * side, side * side + half * half])
    luma, blue, red = (
        resized_crop(part.reshape(1, width, width).T, box, size)[:, :, 0].astype(np.float64)
        for part, width in zip(parts, (side, half, half), strict=True)
    )
    b = blue - 128
    r = red - 128
    colors = (luma + 1.402 * r, luma - 0.344136 * b - 0.714136 * r, luma + 1.772 * b)

    return np.clip(np.floor(np.stack(colors, 2) + 0.5), 0, 255).astype(np.uint8)


def jitter_colors(image: Uint8, factors: Int16 | Int32) -> Uint8:
    """Return the image with other brightness, contrast and saturation, in this order and in whole numbers.

    Each of the three blends the image with another one, as Pillow's ImageEnhance:
    black, the mean of its gray pixels, and the gray image.

    Args:
        image: uint8 [T, T, C], of 1 or 3 channels.
        factors: int16 or int32 [3], in 1/256: brightness, contrast, saturation.
    """
    brightness, contrast, saturation = factors.tolist()
    pixels = _round_to_bytes(image * np.int64(brightness))
    gray = _to_gray(pixels)
    mean = (gray.sum() + gray.size // 2) // gray.size
    pixels = _round_to_bytes(pixels * contrast + mean * (COLOR_UNIT - contrast))
    gray = _to_gray(pixels)
    pixels = _round_to_bytes(pixels * saturation + gray * (COLOR_UNIT - saturation))

    return pixels.astype(np.uint8)


def operate(image: Uint8, operation: Int32, fill: int) -> Uint8:
    """Return the image after an operation of `plan.draw_operations`, in whole numbers.

    Args:
        image: uint8 [T, T, C], of 1 or 3 channels.
        operation: int32 [12].
        fill: value of the pixels that come from outside of the image.
    """
    kept, threshold, stretches = operation[9:].tolist()
    image = _warp(image, operation[:6], fill)
    image = jitter_colors(image, operation[6:9])
    image = image & np.uint8(kept)
    image = np.where(image >= threshold, 255 - image, image)

    return _stretch(image) if stretches else image


def _warp(image: Uint8, geometry: Int32, fill: int) -> Uint8:
    """Return the image as a matrix and a shift move its pixels, without interpolation."""
    size = len(image)
    a, b, c, d, dy, dx = geometry.tolist()
    center = 2 * np.arange(size) - (size - 1)  # in half pixels from the center
    v = center[:, None]
    u = center[None, :]
    half = size * GEOMETRY_UNIT  # of the image, plus half a pixel to round
    y = (a * v + b * u + 2 * size * dy + half) >> 17
    x = (c * v + d * u + 2 * size * dx + half) >> 17

    inside = (y >= 0) & (y < size) & (x >= 0) & (x < size)
    moved = image[y.clip(0, size - 1), x.clip(0, size - 1)]
    return np.where(inside[..., None], moved, np.uint8(fill))


def _stretch(image: Uint8) -> Uint8:
    """Return the image with each channel stretched to 0..255; one of a single value stays."""
    low = image.min((0, 1)).astype(np.int64)
    span = image.max((0, 1)) - low
    stretched = ((image - low) * 255 + span // 2) // np.maximum(span, 1)
    return np.where(span > 0, stretched, image).astype(np.uint8)


def _round_to_bytes(values: Int64) -> Int64:
    """Return values in 1/256 as whole numbers of 0..255."""
    return ((values + COLOR_UNIT // 2) >> 8).clip(0, 255)


def _to_gray(pixels: Int64) -> Int64:
    """Return the luma of ITU-R 601, int64 [T, T, 1]; of one channel, that channel."""
    if pixels.shape[2] == 1:
        return pixels
    return _round_to_bytes(pixels @ np.array([77, 150, 29]))[..., None]


def blanked_boxes(draws: Draws, policy: Policy, size: int) -> list[Int32]:
    """Return the boxes that are blanked: of cutout, of erasing, of both or of none.

    Args:
        draws: of a batch, B rows.
        policy: the one that `draws` was drawn by.
        size: side T of the images in px.

    Returns:
        int32 [B, 4] each: top, left, bottom, right in px, within the image.
    """
    boxes = []
    if policy.cutout:
        first = np.floor(draws.cutout * np.float32(size)).astype(np.int32) - policy.cutout // 2
        boxes.append(np.concatenate([first, first + policy.cutout], axis=1).clip(0, size))
    if policy.erasing:
        boxes.append(np.floor(draws.erased * np.float32(size)).astype(np.int32))
    return boxes


def blank(image: Uint8, boxes: list[Int32], fill: int) -> Uint8:
    """Return the image with all pixels of some boxes, int32 [4] each, set to a value."""
    if not boxes:
        return image

    image = image.copy()
    for top, left, bottom, right in boxes:
        image[top:bottom, left:right] = fill
    return image
