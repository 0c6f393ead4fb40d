"""Draws in whole pixels, for engines that leave the pixels to somebody else's operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]


def pixel_boxes(box: npt.NDArray[np.float32], sizes: npt.NDArray[np.integer[Any]]) -> Int32:
    """Boxes in whole pixels; those of `plan.resized_crop_boxes` are whole to begin with.

    Args:
        box: float32 [n, 4], x, y, w, h as fractions of the image.
        sizes: int [n, 2], width and height of the images in px.

    Returns:
        int32 [n, 4]: x, y, w, h in px, within the image, at least one pixel.
    """
    scaled = box.astype(np.float64) * np.tile(sizes, 2)
    start = np.clip(np.rint(scaled[:, :2]), 0, sizes - 1)
    end = np.clip(np.rint(scaled[:, :2] + scaled[:, 2:]), start + 1, sizes)
    return np.concatenate([start, end - start], axis=1).astype(np.int32)


def cutout_boxes(centre: npt.NDArray[np.float32], size: int, side: int) -> Int32:
    """The blanked squares of `oracle.blanked`, cut to the image.

    Args:
        centre: float32 [n, 2], y, x as fractions of the image.
        size: of the image in px.
        side: of the square in px.

    Returns:
        int32 [n, 4]: top, left, height, width in px.
    """
    first = np.floor(centre * np.float32(size)).astype(np.int32) - side // 2
    start, end = np.maximum(first, 0), np.minimum(first + side, size)
    return np.concatenate([start, end - start], axis=1)
