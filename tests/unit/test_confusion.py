"""A confusion matrix held as pairs gives the metrics of the dense one."""

import tracemalloc

import numpy as np
import pytest

from trainer_classification.metrics import confusion
from trainer_classification.metrics.classification import (
    average_classes,
    balanced_accuracy,
    count_confusion,
    measure_classes,
    platform_scalars,
)
from trainer_classification.metrics.confusion import ConfusionPairs, list_cells
from trainer_classification.outputs.class_tables import class_rows, write_confusion


@pytest.fixture(params=[(9, 9), (9, 12)], ids=["the task's classes", "and others of the model"])
def both(request, monkeypatch):
    """The same matrix (dense, pairs), of 300 images; class 8 has none."""
    classes, columns = request.param
    random = np.random.default_rng(0)
    labels = random.integers(0, classes - 1, 300)
    predictions = np.where(random.random(300) < 0.5, labels, random.integers(0, columns, 300))
    dense = count_confusion(labels, predictions, classes, columns)
    monkeypatch.setattr(confusion, "MAX_DENSE_CLASSES", classes - 1)
    pairs = count_confusion(labels, predictions, classes, columns)
    assert isinstance(dense, np.ndarray)
    assert isinstance(pairs, ConfusionPairs)
    return dense, pairs


def test_sums_and_diagonal_are_those_of_the_dense_matrix(both):
    dense, pairs = both
    assert len(pairs) == len(dense)
    assert pairs.shape == dense.shape
    assert pairs.sum() == dense.sum()
    assert pairs.trace() == dense.trace()
    assert np.array_equal(pairs.sum(1), dense.sum(1))
    assert np.array_equal(pairs.sum(axis=0), dense.sum(axis=0))
    assert np.array_equal(pairs.diagonal(), dense.diagonal())


def test_all_metrics_are_those_of_the_dense_matrix(both):
    dense, pairs = both
    assert average_classes(pairs) == average_classes(dense)
    assert balanced_accuracy(pairs) == balanced_accuracy(dense)
    assert platform_scalars(pairs, 0.5, "t") == platform_scalars(dense, 0.5, "t")
    names = [*"abcdefghi"]
    assert class_rows(pairs, names) == class_rows(dense, names)


def test_the_most_frequent_mistakes_are_those_of_the_dense_matrix(both):
    dense, pairs = both
    mistakes = list(pairs.mistakes())[:10]
    assert mistakes == list(list_cells(dense).mistakes())[:10]
    counts = [count for _, _, count in mistakes]
    off_diagonal = np.array(dense)
    np.fill_diagonal(off_diagonal, 0)
    assert counts == np.sort(off_diagonal, axis=None)[::-1][:10].tolist()
    assert all(dense[true, predicted] == count for true, predicted, count in mistakes)


def test_the_file_of_many_classes_lists_the_cells_that_images_fall_into(tmp_path):
    cells = list_cells(np.array([[3, 1, 0], [0, 0, 2], [0, 0, 0]]))
    lines = write_confusion(tmp_path / "confusion.csv", cells, ["a", "b", "c,d"]).read_text().splitlines()
    assert lines == ["class,predicted_class,images", "a,a,3", "a,b,1", 'b,"c,d",2']


def test_the_classes_of_imagenet_21k_take_little_memory():
    """Dense they take 3.8 GB."""
    labels, predictions = np.random.default_rng(0).integers(0, 21_841, (2, 50_000))
    tracemalloc.start()
    counted = count_confusion(labels, predictions, 21_841)
    classes = measure_classes(counted)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert classes.support.sum() == 50_000
    assert peak < 30e6
