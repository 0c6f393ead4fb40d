"""Draw a confusion matrix of many classes as a picture, one point a cell."""

from __future__ import annotations

import base64
import io

import numpy as np

from trainer_classification.arrays import Uint8
from trainer_classification.metrics.classification import measure_classes
from trainer_classification.metrics.confusion import ConfusionPairs

MAX_SIDE = 350  # points; with more classes several share one
_LEVELS = 7  # of opacity, for right and for wrong
_RIGHT = (37, 99, 235)
_WRONG = (234, 88, 12)
_FAINTEST = 140  # of 255, so that a single mistake is seen


def draw_confusion(confusion: ConfusionPairs) -> tuple[str, int]:
    """Draw rows of true classes and columns of predicted ones on a transparent ground.

    The opacity of a point grows with the share of its true class: in proportion
    on the diagonal, with the root beside it, where most shares are small.

    Returns:
        (address, block): a PNG as a data URI, and the number of classes that
        share a row or column.
    """
    from PIL import Image

    block = -(-len(confusion) // MAX_SIDE)
    file = io.BytesIO()
    levels = _draw_levels(confusion, block)
    picture = Image.frombytes("P", levels.shape[::-1], levels.tobytes())
    opacities = [_FAINTEST + (255 - _FAINTEST) * level // (_LEVELS - 1) for level in range(_LEVELS)]
    picture.putpalette([*(0, 0, 0), *(_RIGHT * _LEVELS), *(_WRONG * _LEVELS)])
    picture.save(file, "PNG", optimize=True, transparency=bytes([0, *opacities, *opacities]))

    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}", block


def _draw_levels(confusion: ConfusionPairs, block: int) -> Uint8:
    """Return palette entries, uint8 [side, side]: 0 nothing, then levels of right, then levels of wrong."""
    side = -(-len(confusion) // block)
    support = measure_classes(confusion).support
    shares = confusion.count / np.maximum(support[confusion.true], 1)
    is_right = confusion.true == confusion.predicted
    scaled = np.where(is_right, shares, np.sqrt(shares))
    levels = 1 + np.minimum(_LEVELS - 1, (scaled * _LEVELS).astype(np.int64))
    levels += np.where(is_right, 0, _LEVELS)

    points = np.zeros((side, side), np.uint8)
    # Of the cells that share a point, mistakes are shown before right ones, and
    # large ones before small ones.
    np.maximum.at(points, (confusion.true // block, confusion.predicted // block), levels)

    return points
