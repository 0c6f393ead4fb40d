"""Progressive resizing: small images first, full size at the end.

Howard's for DAWNBench ("Training Imagenet in 3 hours for 25 minutes", fast.ai 2018), on Composer's time line: the
first size for half of the epochs, growing in a line until four fifths, the last fifth at full size.
"""

from __future__ import annotations

_GROWS_FROM, _FULL_FROM = 0.5, 0.8


def image_size(epoch: int, epochs: int, first: int, full: int) -> int:
    """Side in px of an epoch's images: a pure function, so that a resumed run sees the same.

    In steps of 16 px from 64 px on and of 4 px below: each size costs a reopened loader and new kernels.

    Args:
        epoch: 0 for the first.
        epochs: of the run.
        first: side in the first epochs; 0 or more than `full`: `full` throughout.
        full: side in the last ones.
    """
    if first == 0 or first >= full:
        return full
    through = (epoch / epochs - _GROWS_FROM) / (_FULL_FROM - _GROWS_FROM)
    if through >= 1 or epoch == epochs - 1:
        return full
    grid = 16 if full > 64 else 4
    return min(full, first + round(max(0.0, through) * (full - first) / grid) * grid)


def mean_pixels(epochs: int, first: int, full: int) -> float:
    """Mean area of the images of a run, as a share of the full area: about what it costs."""
    return sum(image_size(epoch, epochs, first, full) ** 2 for epoch in range(epochs)) / (epochs * full**2)
