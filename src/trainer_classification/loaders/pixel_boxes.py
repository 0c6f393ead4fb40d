"""Convert draws to whole pixels, for engines that crop with another library's operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trainer_classification.arrays import Int32


def pixel_boxes(box: npt.NDArray[np.float32], sizes: npt.NDArray[np.integer[Any]]) -> Int32:
    """Round boxes to whole pixels.

    Those of `plan.resized_crop_boxes` are whole already.

    Args:
        box: float32 [n, 4], x, y, w, h as fractions of the image.
        sizes: int [n, 2], width and height of the images in px.

    Returns:
        int32 [n, 4]: x, y, w, h in px, within the image, at least one pixel wide
        and high.
    """
    scaled = box.astype(np.float64) * np.tile(sizes, 2)
    start = np.clip(np.rint(scaled[:, :2]), 0, sizes - 1)
    end = np.clip(np.rint(scaled[:, :2] + scaled[:, 2:]), start + 1, sizes)

    return np.concatenate([start, end - start], axis=1).astype(np.int32)
