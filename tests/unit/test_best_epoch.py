"""Which epoch is kept, and why."""

import math

import numpy as np
import pytest

from trainer_classification.training.best_epoch import describe_choice, measure_validation, score_epoch
from trainer_classification.training.evaluate import Evaluation

# Nine of ten images of the large class are right in the first, which forgets the small one.
FORGETS = Evaluation(0.5, 0.90, np.array([[90, 0], [10, 0]]))
FAIR = Evaluation(0.7, 0.85, np.array([[77, 13], [2, 8]]))


@pytest.mark.parametrize(
    ("best_by", "better"), [("accuracy", FORGETS), ("loss", FORGETS), ("balanced", FAIR), ("f1", FAIR)]
)
def test_what_is_compared_decides(best_by, better):
    scores = {id(one): score_epoch({"epoch": 1} | measure_validation(one, best_by), best_by) for one in (FORGETS, FAIR)}
    assert max(scores, key=scores.get) == id(better)
    assert min(scores.values()) >= 0  # a run begins with -1


def test_the_loss_of_a_poor_epoch_is_a_score_too():
    row = {"epoch": 1, "loss_validation": 1e5, "accuracy_validation": 0.0}
    assert score_epoch(row, "loss") >= 0


@pytest.mark.parametrize("loss", [None, math.nan, math.inf])
def test_an_epoch_without_a_finite_loss_is_worse_than_none(loss):
    assert score_epoch({"epoch": 1, "loss_validation": loss, "accuracy_validation": 1.0}, "accuracy") < -1


def test_the_choice_is_said_with_its_reason():
    history = [{"epoch": n, "loss_validation": 0.1 * n, "accuracy_validation": 1.0} for n in (1, 2, 3)]
    assert "epoch 3, validation accuracy 1.0000, the latest of 3 epochs" in describe_choice(history, 3, "accuracy")
    assert "epoch 1, validation loss 0.1000, no other epoch is as good" in describe_choice(history, 1, "loss")
    assert "epoch 3, the last, since there are no validation images" in describe_choice([{"epoch": 3}] * 3, 3, "f1")
