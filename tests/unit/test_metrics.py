"""Metrics equal those of Hafnia's SDK and of plain loops, also with absent classes, ties and no images."""

import math

import numpy as np
import pytest

from trainer_classification.metrics.classification import (
    average_classes,
    balanced_accuracy,
    count_confusion,
    measure_classes,
    platform_scalars,
    rank_labels,
    wilson_interval,
)
from trainer_classification.metrics.comparison import compare
from trainer_classification.outputs.class_tables import write_class_table, write_confusion


def random_case(seed, num_classes=7, count=60, present=5):
    """Labels of the first `present` classes, and predictions of all but the last."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, present, count)
    guesses = random.integers(0, num_classes - 1, count)
    return labels, np.where(random.random(count) < 0.5, labels, guesses)


def of_sdk(labels, predictions, num_classes):
    import polars as pl
    from hafnia.dataset.benchmark.metrics.classification_metrics import _compute_metrics_from_pairs

    names = [f"class {index}" for index in range(num_classes)]
    true, predicted = (
        pl.Series([f"class {index}" for index in values], dtype=pl.String) for values in (labels, predictions)
    )
    return _compute_metrics_from_pairs(true, predicted, names)


@pytest.mark.parametrize("seed", range(5))
def test_averages_and_classes_equal_those_of_the_sdk(seed):
    labels, predictions = random_case(seed)
    confusion = count_confusion(labels, predictions, 7)
    expected = of_sdk(labels, predictions, 7)
    scalars = expected.model_dump(exclude={"per_class"})
    assert average_classes(confusion) == pytest.approx(scalars, abs=1e-12)
    assert list(average_classes(confusion)) == list(scalars)
    classes = measure_classes(confusion)
    for index, of_class in enumerate(expected.per_class.values()):
        for name, value in of_class.model_dump().items():
            assert getattr(classes, name)[index] == pytest.approx(value, abs=1e-12), name


def test_predictions_of_classes_that_the_task_lacks_are_errors_as_in_the_sdk():
    labels, predictions = random_case(1, num_classes=12, present=7)
    confusion = count_confusion(labels, predictions, 7, 12)
    expected = of_sdk(labels, predictions, 7).model_dump(exclude={"per_class"})
    assert (predictions >= 7).any()
    assert average_classes(confusion) == pytest.approx(expected, abs=1e-12)


def test_without_images_all_are_zero_as_in_the_sdk_and_nothing_is_logged():
    confusion = count_confusion(np.zeros(0, np.int64), np.zeros(0, np.int64), 3)
    expected = of_sdk([], [], 3).model_dump(exclude={"per_class"})
    assert average_classes(confusion) == expected
    assert math.isnan(balanced_accuracy(confusion))
    assert platform_scalars(confusion, math.nan, "task") == {}


def test_an_absent_class_counts_as_zero_in_macro_and_not_in_balanced_accuracy():
    confusion = np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    assert average_classes(confusion)["recall_macro"] == pytest.approx((0.75 + 1 + 0) / 3)
    assert balanced_accuracy(confusion) == pytest.approx((0.75 + 1) / 2)


def test_confusion_counts_true_classes_in_rows():
    confusion = count_confusion(np.array([0, 0, 2]), np.array([1, 1, 0]), 3)
    assert confusion.tolist() == [[0, 2, 0], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("seed", range(5))
def test_ranks_are_those_of_a_stable_sort_where_many_logits_are_equal(seed):
    random = np.random.default_rng(seed)
    logits = random.integers(-2, 3, (200, 8)).astype(np.float32)
    labels = random.integers(0, 8, 200)
    order = np.argsort(-logits, axis=1, kind="stable")
    expected = [list(row).index(label) for row, label in zip(order, labels, strict=True)]
    assert rank_labels(logits, labels).tolist() == expected
    assert ((rank_labels(logits, labels) == 0) == (logits.argmax(1) == labels)).all()


def test_a_class_that_the_model_does_not_know_is_never_among_the_best():
    assert rank_labels(np.zeros((1, 3), np.float32), np.array([-1])).tolist() == [3]


# Of scipy 1.17's binomtest(correct, count).proportion_ci(method="wilson").
@pytest.mark.parametrize(
    ("correct", "count", "low", "high"),
    [
        (0, 7, 0.0, 0.35433043506668743),
        (7, 7, 0.6456695649333126, 1.0),
        (8, 10, 0.4901624715366418, 0.9433178485456248),
        (1, 257, 0.000687196508130386, 0.02170747513304312),
    ],
)
def test_intervals_are_wilsons(correct, count, low, high):
    assert wilson_interval(correct, count) == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize("count", [1, 2, 7, 10, 257, 10_000])
def test_the_ends_of_an_interval_are_exact(count):
    assert wilson_interval(0, count)[0] == 0.0
    assert wilson_interval(count, count)[1] == 1.0


def test_an_interval_without_images_is_everything():
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_the_platform_gets_the_sdks_nine_scalars_and_those_of_test():
    values = platform_scalars(np.array([[3, 1], [0, 4]]), 0.25, "image_classification")
    names = of_sdk([0], [0], 2).model_dump(exclude={"per_class"}).keys()
    assert values.keys() == {f"image_classification/{name}" for name in names} | {"test/accuracy", "test/loss"}
    assert len(names) == 9
    assert values["test/accuracy"] == 7 / 8
    assert values["test/loss"] == 0.25


def test_a_loss_that_is_not_finite_is_not_logged():
    assert "test/loss" not in platform_scalars(np.eye(2, dtype=np.int64), math.inf, "task")


def pair(only_first, only_second, both=10, neither=5):
    counts = (both, neither, only_first, only_second)
    return np.repeat([True, False, True, False], counts), np.repeat([True, False, False, True], counts)


# Of scipy 1.17: binomtest(3, 13).pvalue, and chi2.sf((|20 - 40| - 1)**2 / 60, 1).
@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value", "method"),
    [
        (3, 10, 0.09228515625, "exact"),
        (20, 40, 0.014171388254012323, "chi-square"),
        (7, 7, 1.0, "exact"),
        (0, 0, 1.0, "exact"),
    ],
)
def test_mcnemars_test_has_the_p_value_of_scipy(only_first, only_second, p_value, method):
    found = compare(*pair(only_first, only_second))
    assert (found.only_first, found.only_second, found.method) == (only_first, only_second, method)
    assert found.p_value == pytest.approx(p_value, rel=1e-12)


def test_as_many_errors_on_both_sides_are_no_difference_by_chi_square_either():
    assert compare(*pair(30, 30)).p_value == 1.0


def test_the_exact_test_ends_at_25_images():
    assert compare(*pair(12, 12)).method == "exact"
    assert compare(*pair(12, 13)).method == "chi-square"


def test_the_words_say_which_model_is_better_and_whether_that_is_noise():
    assert compare(*pair(20, 40)).describe("A", "B").startswith("B is better, by more than noise")
    assert compare(*pair(40, 20)).describe("A", "B").startswith("A is better, by more than noise")
    assert compare(*pair(3, 10)).describe("A", "B").startswith("The difference is within noise")
    assert "no difference" in compare(*pair(0, 0)).describe("A", "B")


def test_models_of_different_images_are_not_compared():
    with pytest.raises(ValueError, match="on 3 and 2 images"):
        compare(np.ones(3, bool), np.ones(2, bool))


def test_tables_have_a_line_a_class_and_quote_names(tmp_path):
    confusion = np.array([[3, 1, 0], [0, 4, 2]])
    table = write_class_table(tmp_path / "a.csv", confusion, ["a, b", "c"]).read_text().splitlines()
    assert table[1].startswith('"a, b",4,3,')
    assert len(table) == 3
    matrix = write_confusion(tmp_path / "b.csv", confusion, ["a", "c", "only the model's"]).read_text()
    assert matrix == "class,a,c,only the model's\na,3,1,0\nc,0,4,2\n"
