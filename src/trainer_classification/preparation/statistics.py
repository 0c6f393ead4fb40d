"""Measure mean and standard deviation of the train images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer_classification.arrays import Int64
from trainer_classification.data.formats import ArrayLayout
from trainer_classification.data.source import Source
from trainer_classification.data.split_names import NUMBER_OF
from trainer_classification.preparation.job_result import sum_pixels

# Number of resized images, about, that stand for all of them: right to a
# hundredth.
SAMPLE_SIZE = 1024


def choose_measured(source: Source, layout: ArrayLayout) -> npt.NDArray[np.bool_]:
    """Choose the images to measure: all of train, or some of them if they are resized.

    The choice does not depend on the formats. An image that is not measured need
    not be resized for a format that keeps its file.

    Returns:
        bool [n].
    """
    train = np.flatnonzero(source.split_numbers == NUMBER_OF["train"])
    step = max(1, len(train) // SAMPLE_SIZE) if layout.resized else 1
    measured = np.zeros(len(source.files), bool)
    measured[train[::step]] = True

    return measured


def mean_and_std(
    stems: Sequence[Path], starts: Int64, rows: Int64, layout: ArrayLayout
) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel, of 0..1, of some images as the array has them.

    Args:
        stems: of the part files.
        starts: int64, the first row of each.
        rows: int64 [n], ascending, of images that are measured.
        layout: of the array.
    """
    sums, squares = (one[: layout.channels] for one in sum_pixels(stems, starts, rows))

    # Integer sums up to here, so that the order of the images does not matter.
    count = len(rows) * layout.side**2
    mean = sums / count

    return (mean / 255).tolist(), (np.sqrt(squares / count - mean**2) / 255).tolist()
