"""What augmentation means: slow, plain, one image at a time. The fast ones are tested against it.

`augment` here, in `cpu.py` (numba) and in `device.py` (torch) share one signature. Shifts, flips and cutouts are exact;
resized crops are those of Pillow's antialiased bilinear `resize(box=...)`, up to rounding.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from trainer_classification.plan import Draws, Int64, Policy

Uint8 = npt.NDArray[np.uint8]
Layout = Literal["HWC", "WHC"]


def augment(images: Uint8, index: Int64, draws: Draws, policy: Policy, size: int, layout: Layout = "HWC") -> Uint8:
    """Crop, shift, mirror and blank the images of a batch as drawn.

    Args:
        images: uint8 [N, S, S, C], the whole split; an image is [y, x, c], or [x, y, c] for layout "WHC".
        index: int64 [B], which images; -1 is a padding row, whose pixels are any.
        draws: of the batch, B rows.
        policy: what `draws` was drawn by.
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
            image = shifted(image, draws.shift[row], policy.pad)
        image = image[:, ::-1] if draws.flip[row] else image
        rows.append(blanked(image, draws.cutout[row], policy))
    return np.stack(rows)


def resizes(policy: Policy, side: int, size: int) -> bool:
    """Whether pixels are interpolated (True) or only copied.

    Raises:
        ValueError: a shift, which copies, is asked for at another size than the images have, or by all of it.
    """
    if policy.crop == "shift" and side != size:
        raise ValueError(f"Images stored at {side} px cannot be shifted at {size}: prepare with --image-size {size}.")
    if policy.crop == "shift" and policy.shift >= side:
        raise ValueError(f"Images of {side} px cannot be shifted by {policy.shift}: use --shift {side - 1} or less.")
    return policy.crop == "resized" or side != size


def shifted(image: Uint8, shift: npt.NDArray[np.int8], pad: Literal["reflect", "zero"]) -> Uint8:
    """Output pixel (y, x) is input pixel (y + dy, x + dx); what lies outside is reflected or zero."""
    reach, side = int(np.abs(shift).max(initial=0)), len(image)
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), "reflect" if pad == "reflect" else "constant")
    y, x = shift + reach
    return padded[y : y + side, x : x + side]


def resized_crop(image: Uint8, box: npt.NDArray[np.float32], size: int) -> Uint8:
    """The box (x, y, w, h as fractions) as size x size px, antialiased."""
    from PIL import Image  # the fast ones import this module, on machines that may lack Pillow

    height, width, channels = image.shape
    x, y, w, h = (box.astype(np.float64) * (width, height, width, height)).tolist()
    picture = Image.fromarray(np.ascontiguousarray(image if channels > 1 else image[:, :, 0]))
    edges = (x, y, min(x + w, width), min(y + h, height))
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box=edges)).reshape(size, size, channels)


def blanked(image: Uint8, centre: npt.NDArray[np.float32], policy: Policy) -> Uint8:
    """The image with the square of `policy.cutout` px around the centre (y, x as fractions) set to `policy.fill`."""
    if policy.cutout == 0:
        return image
    size, side = len(image), policy.cutout
    top, left = np.floor(centre * np.float32(size)).astype(int) - side // 2
    image = image.copy()
    image[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = policy.fill
    return image
