"""Define the augmentation: slow and plain, one image at a time.

The fast versions are tested against it.

`augment` here, in `cpu.py` (numba) and in `device.py` (torch) share one
signature. Shifts, flips and cutouts are exact. Resized crops are those of
Pillow's antialiased bilinear `resize(box=...)`, up to rounding.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from trainer_classification.arrays import Float32, Int8, Int64, Uint8
from trainer_classification.plan import Draws, Policy

Layout = Literal["HWC", "WHC"]


def augment(
    images: Uint8, index: Int64, draws: Draws, policy: Policy, size: int, layout: Layout = "HWC"
) -> Uint8:
    """Crop, shift, mirror and blank the images of a batch as drawn.

    Args:
        images: uint8 [N, S, S, C], the whole split. An image is [y, x, c], or [x,
            y, c] for layout "WHC".
        index: int64 [B], the images of the batch; -1 is a padding row, whose
            pixels do not matter.
        draws: of the batch, B rows.
        policy: the one that `draws` was drawn by.
        size: side T in px of the images to return.
        layout: order of an image's bytes.

    Returns:
        uint8 [B, T, T, C].
    """
    rows = []
    for row, sample in enumerate(index):
        image = images[sample] if layout == "HWC" else images[sample].swapaxes(0, 1)
        if resizes(policy, len(image), size):
            image = resized_crop(image, draws.box[row], size)
        else:
            image = shift_image(image, draws.shift[row], policy.pad)

        if draws.flip[row]:
            image = image[:, ::-1]
        rows.append(blank_square(image, draws.cutout[row], policy))

    return np.stack(rows)


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


def blank_square(image: Uint8, center: Float32, policy: Policy) -> Uint8:
    """Return the image with a square of `policy.cutout` px set to `policy.fill`.

    Args:
        image: uint8 [T, T, C].
        center: float32 [2], y and x of the square's center as fractions of the
            image.
        policy: how images are augmented.
    """
    if policy.cutout == 0:
        return image

    size = len(image)
    side = policy.cutout
    top, left = np.floor(center * np.float32(size)).astype(int) - side // 2
    image = image.copy()
    image[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = policy.fill

    return image
