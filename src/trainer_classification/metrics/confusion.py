"""Hold a confusion matrix: dense for up to 1,000 classes, as pairs of classes for more.

Dense, the 21,841 classes of ImageNet-21k need 3.8 GB, of which nearly all is
zero: no matrix has more cells with a count than there are images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer_classification.arrays import Int64

MAX_DENSE_CLASSES = 1000


@dataclass(frozen=True, eq=False)
class ConfusionPairs:
    """The cells of a confusion matrix that are not 0, in the order of rows and then columns.

    It answers to `len`, `sum`, `diagonal` and `trace` as the dense matrix does.

    Attributes:
        shape: (K, C), classes of the task and classes that may be predicted.
        true: int64 [m], row of each cell.
        predicted: int64 [m], column of each cell.
        count: int64 [m], images, 1 or more.
    """

    shape: tuple[int, int]
    true: Int64
    predicted: Int64
    count: Int64

    def __len__(self) -> int:
        return self.shape[0]

    def sum(self, axis: int | None = None) -> Any:
        """Return the images of each class for axis 1, of each prediction for axis 0, of all for None."""
        if axis is None:
            return self.count.sum()
        classes = self.true if axis == 1 else self.predicted
        return _sum_by(classes, self.count, self.shape[1 - axis])

    def diagonal(self) -> Int64:
        """Return the images of each class that are classified right, int64 [min(K, C)]."""
        right = self.true == self.predicted
        return _sum_by(self.true[right], self.count[right], min(self.shape))

    def trace(self) -> Any:
        """Return the images that are classified right."""
        return self.diagonal().sum()

    def mistakes(self) -> Iterator[tuple[int, int, int]]:
        """Yield (true class, predicted class, images) of the cells beside the diagonal, the largest first.

        Among equal ones, those of the first classes come first.
        """
        wrong = np.flatnonzero(self.true != self.predicted)
        order = wrong[np.lexsort((self.predicted[wrong], self.true[wrong], -self.count[wrong]))]
        for cell in order:
            yield int(self.true[cell]), int(self.predicted[cell]), int(self.count[cell])

    def matrix_of(self, classes: list[int]) -> Int64:
        """Return the matrix of some classes among each other, int64 [n, n], in the order given."""
        place = np.full(max(self.shape), -1)
        place[classes] = np.arange(len(classes))
        row = place[self.true]
        column = place[self.predicted]
        inside = (row >= 0) & (column >= 0)
        matrix = np.zeros((len(classes), len(classes)), np.int64)
        matrix[row[inside], column[inside]] = self.count[inside]

        return matrix


Confusion = Int64 | ConfusionPairs


def is_dense(num_classes: int) -> bool:
    """Return whether the matrix of so many classes is held dense."""
    return num_classes <= MAX_DENSE_CLASSES


def _sum_by(classes: Int64, counts: Int64, number: int) -> Int64:
    sums = np.zeros(number, np.int64)
    np.add.at(sums, classes, counts)
    return sums


def count_cells(cells: Int64, num_classes: int, num_columns: int) -> Confusion:
    """Count equal cells.

    Args:
        cells: int64 [N], true class * C + predicted class of each image.
        num_classes: K.
        num_columns: C.

    Returns:
        int64 [K, C], or pairs where K is above `MAX_DENSE_CLASSES`.
    """
    if is_dense(num_classes):
        counts = np.bincount(cells, minlength=num_classes * num_columns)
        return counts.reshape(num_classes, num_columns).astype(np.int64)
    found, counts = np.unique(cells, return_counts=True)
    true, predicted = np.divmod(found, num_columns)
    return ConfusionPairs((num_classes, num_columns), true, predicted, counts.astype(np.int64))


def list_cells(confusion: Confusion) -> ConfusionPairs:
    """Return the cells that are not 0."""
    if isinstance(confusion, ConfusionPairs):
        return confusion
    true, predicted = np.nonzero(confusion)
    rows, columns = confusion.shape
    return ConfusionPairs((rows, columns), true, predicted, confusion[true, predicted])
