"""Confidences, their expected error, and the temperature that corrects them."""

import math

import numpy as np
import pytest

from trainer_classification.metrics import calibration
from trainer_classification.metrics.calibration import (
    MAXIMUM_TEMPERATURE,
    MINIMUM_TEMPERATURE,
    calibration_error,
    confidence_of,
    cross_entropy,
    fit_temperature,
    softmax,
)


def random_case(seed, scale, count=300, num_classes=6):
    """Logits whose softmax at temperature `scale` is the true distribution of the labels."""
    random = np.random.default_rng(seed)
    exact = random.normal(size=(count, num_classes)) * 2
    probabilities = np.exp(exact) / np.exp(exact).sum(1, keepdims=True)
    labels = np.array([random.choice(num_classes, p=row) for row in probabilities])
    return (exact * scale).astype(np.float32), labels


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_no_temperature_of_a_fine_grid_has_a_lower_loss(seed, scale):
    logits, labels = random_case(seed, scale)
    fit = fit_temperature(logits, labels)
    grid = np.geomspace(MINIMUM_TEMPERATURE, MAXIMUM_TEMPERATURE, 2001)
    losses = [cross_entropy(logits, labels, temperature) for temperature in grid]
    assert fit.temperature == pytest.approx(grid[np.argmin(losses)], rel=0.003)
    assert fit.loss_after <= min(losses)
    assert fit.loss_after <= fit.loss_before
    assert fit.note == ""


def test_the_temperature_that_made_the_logits_is_found():
    logits, labels = random_case(0, 2.5, count=20_000)
    assert fit_temperature(logits, labels).temperature == pytest.approx(2.5, rel=0.03)


def test_blocks_of_rows_change_nothing(monkeypatch):
    logits, labels = random_case(0, 2.0)
    whole = fit_temperature(logits, labels)
    monkeypatch.setattr(calibration, "_ROWS", 7)
    assert fit_temperature(logits, labels).temperature == pytest.approx(whole.temperature, rel=1e-10)
    assert cross_entropy(logits, labels) == pytest.approx(whole.loss_before, rel=1e-12)


@pytest.mark.parametrize("margin", [1.0, 50.0, 1e6])
def test_with_all_images_right_the_temperature_is_the_lower_bound_and_the_note_says_so(margin):
    labels = np.arange(12) % 3
    logits = (np.eye(3)[labels] * margin).astype(np.float32)
    fit = fit_temperature(logits, labels)
    assert fit.temperature == MINIMUM_TEMPERATURE
    assert "lower bound" in fit.note


@pytest.mark.parametrize("margin", [1.0, 1e6])
def test_with_all_images_wrong_it_is_the_upper_bound(margin):
    labels = np.arange(12) % 3
    logits = (np.eye(3)[(labels + 1) % 3] * margin).astype(np.float32)
    fit = fit_temperature(logits, labels)
    assert fit.temperature == MAXIMUM_TEMPERATURE
    assert "upper bound" in fit.note


@pytest.mark.parametrize("logits", [np.zeros((0, 3)), np.full((4, 3), 2.0), np.ones((4, 1))])
def test_where_there_is_nothing_to_fit_the_temperature_is_one(logits):
    fit = fit_temperature(logits.astype(np.float32), np.zeros(len(logits), np.int64))
    assert fit.temperature == 1.0
    assert fit.note


def test_the_error_is_that_of_a_plain_loop_with_edges_in_the_lower_bin():
    random = np.random.default_rng(0)
    confidences = np.concatenate([random.random(200), np.arange(16) / 15])
    correct = random.random(len(confidences)) < confidences
    expected = 0.0
    for bin_ in range(15):
        above, up_to = bin_ / 15, (bin_ + 1) / 15
        inside = [i for i, c in enumerate(confidences) if above < c <= up_to or (bin_ == 0 and c == 0)]
        if inside:
            accuracy = sum(correct[i] for i in inside) / len(inside)
            confidence = sum(confidences[i] for i in inside) / len(inside)
            expected += len(inside) / len(confidences) * abs(accuracy - confidence)
    assert calibration_error(confidences, correct) == pytest.approx(expected, abs=1e-12)


def test_the_error_of_sure_models_is_their_share_of_mistakes():
    assert calibration_error(np.ones(4), np.array([True, True, True, False])) == 0.25
    assert math.isnan(calibration_error(np.zeros(0), np.zeros(0, bool)))


def test_confidence_and_loss_of_large_logits_are_finite_and_exact():
    logits = np.array([[1000.0, 0.0], [0.0, 40.0]], np.float32)
    assert softmax(logits).sum(1).tolist() == [1.0, 1.0]
    assert confidence_of(logits).tolist() == [1.0, 1.0]
    assert cross_entropy(logits, np.array([1, 0])) == pytest.approx((1000 + 40) / 2)
    assert confidence_of(logits[:0]).shape == (0,)


def test_a_higher_temperature_lowers_confidence_and_moves_no_prediction():
    logits, _ = random_case(0, 1.0)
    assert (confidence_of(logits, 2.0) < confidence_of(logits)).all()
    assert (softmax(logits, 2.0).argmax(1) == logits.argmax(1)).all()
