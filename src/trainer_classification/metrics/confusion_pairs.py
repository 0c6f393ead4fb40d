"""Hold a confusion matrix as its cells that are not zero: with 21,841 classes the whole one has 3.8 GB."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from trainer_classification.arrays import Int64
from trainer_classification.metrics.classification import ClassMetrics, measure_counts

_ROWS = 256  # of the matrix that are looked at together


@dataclass(frozen=True)
class ConfusionPairs:
    """The M cells of a confusion matrix of K classes that are not zero.

    Attributes:
        labels: int64 [M], true class of each cell.
        predictions: int64 [M], predicted class of each cell.
        counts: int64 [M], images in each cell.
        num_classes: K.
    """

    labels: Int64
    predictions: Int64
    counts: Int64
    num_classes: int

    @classmethod
    def from_matrix(cls, confusion: Int64) -> ConfusionPairs:
        """Take the cells of a matrix, int64 [K, K]: rows are the true classes."""
        rows = []
        columns = []
        for start in range(0, len(confusion), _ROWS):
            row, column = np.nonzero(confusion[start : start + _ROWS])
            rows.append(row + start)
            columns.append(column)
        labels = np.concatenate(rows)
        predictions = np.concatenate(columns)

        return cls(labels, predictions, confusion[labels, predictions], len(confusion))

    @property
    def images(self) -> int:
        """Number of images."""
        return int(self.counts.sum())

    def measure_classes(self) -> ClassMetrics:
        """Compute the metrics of each class, as `measure_classes` does from the matrix."""
        is_right = self.labels == self.predictions
        return measure_counts(
            self._sum_by(self.labels, self.counts),
            self._sum_by(self.predictions, self.counts),
            self._sum_by(self.labels[is_right], self.counts[is_right]),
        )

    def _sum_by(self, classes: Int64, counts: Int64) -> Int64:
        sums = np.zeros(self.num_classes, np.int64)
        np.add.at(sums, classes, counts)
        return sums

    def mistakes(self) -> Iterator[tuple[int, int, int]]:
        """Yield (true class, predicted class, images) of the cells beside the diagonal, the largest first.

        Among equal ones, those of the first classes come first.
        """
        wrong = np.flatnonzero(self.labels != self.predictions)
        order = wrong[
            np.lexsort((self.predictions[wrong], self.labels[wrong], -self.counts[wrong]))
        ]
        for cell in order:
            yield int(self.labels[cell]), int(self.predictions[cell]), int(self.counts[cell])

    def matrix_of(self, classes: list[int]) -> Int64:
        """Return the matrix of some classes among each other, int64 [n, n], in the order given."""
        place = np.full(self.num_classes, -1)
        place[classes] = np.arange(len(classes))
        row = place[self.labels]
        column = place[self.predictions]
        inside = (row >= 0) & (column >= 0)
        matrix = np.zeros((len(classes), len(classes)), np.int64)
        matrix[row[inside], column[inside]] = self.counts[inside]

        return matrix
