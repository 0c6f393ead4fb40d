"""Progressive resizing: train on small images first, and on the full size at the end.

From Howard's DAWNBench entry ("Training Imagenet in 3 hours for 25 minutes",
fast.ai 2018), with Composer's schedule: the first size for half of the epochs,
then growing linearly until four fifths, then the full size.
"""

from __future__ import annotations

# Fractions of the epochs.
_GROWTH_START = 0.5
_GROWTH_END = 0.8


def image_size(epoch: int, epochs: int, first: int, full: int) -> int:
    """Return the side of an epoch's images in px, a pure function, so that a resumed run sees the same.

    Sizes are multiples of 16 px from 64 px on and of 4 px below, because each new
    size costs a reopened loader and new kernels.

    Args:
        epoch: 0 for the first.
        epochs: of the run.
        first: side in the first epochs in px; 0 or more than `full`: `full` in
            all epochs.
        full: side in the last epochs in px.
    """
    if first == 0 or first >= full:
        return full
    growth = (epoch / epochs - _GROWTH_START) / (_GROWTH_END - _GROWTH_START)
    if growth >= 1 or epoch == epochs - 1:
        return full
    multiple = 16 if full > 64 else 4

    return min(full, first + round(max(0.0, growth) * (full - first) / multiple) * multiple)


def mean_pixels(epochs: int, first: int, full: int) -> float:
    """Return the mean area of a run's images as a fraction of the full area: about what the run costs."""
    return sum(image_size(epoch, epochs, first, full) ** 2 for epoch in range(epochs)) / (
        epochs * full**2
    )
