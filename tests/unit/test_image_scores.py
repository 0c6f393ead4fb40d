"""Single images are ranked by what the model says of them, and a label is doubted only where the model is sure."""

import numpy as np
import pytest

from trainer_classification.metrics.image_scores import (
    find_label_errors,
    rank_mistakes,
    rank_unsure_hits,
    score_images,
)
from trainer_classification.outputs.class_tables import LabelError, write_label_errors


def scores_of(labels, probabilities, split="test", temperature=None):
    logits = np.log(np.array(probabilities, np.float32))
    return score_images(split, logits, np.array(labels), temperature)


def test_scores_are_probabilities_with_and_without_temperature():
    logits = np.array([[2.0, 0.0], [0.0, 6.0]], np.float32)
    found = score_images("test", logits, np.array([1, 1]), 2.0)
    assert found.predictions.tolist() == [0, 1]
    assert found.correct.tolist() == [False, True]
    assert found.confidences == pytest.approx(1 / (1 + np.exp([-1.0, -3.0])))
    assert found.plain_confidences == pytest.approx(1 / (1 + np.exp([-2.0, -6.0])))
    assert found.label_probabilities == pytest.approx([1 / (1 + np.exp(1.0)), 1 / (1 + np.exp(-3.0))])


def test_many_images_are_scored_in_parts():
    logits = np.random.default_rng(0).normal(size=(10_000, 3)).astype(np.float32)
    found = score_images("test", logits, np.zeros(10_000, np.int64), None)
    exponentials = np.exp(logits.astype(np.float64))
    assert found.label_probabilities == pytest.approx(exponentials[:, 0] / exponentials.sum(1))


def test_sure_mistakes_and_unsure_hits_come_first():
    found = scores_of([0, 0, 1, 1, 0], [[0.1, 0.9], [0.4, 0.6], [0.45, 0.55], [0.2, 0.8], [0.99, 0.01]])
    assert rank_mistakes(found).tolist() == [0, 1]
    assert rank_unsure_hits(found).tolist() == [2, 3, 4]


def test_a_label_is_doubted_where_the_model_is_as_sure_as_of_the_class_itself():
    """The model gives the images of b 0.9 on average, those of a 0.6: 0.8 for b says little, 0.65 for a much."""
    test = scores_of([1] * 8 + [0] * 8, [[0.1, 0.9]] * 8 + [[0.6, 0.4]] * 8)
    validation = scores_of([0, 1, 0], [[0.2, 0.8], [0.65, 0.35], [0.04, 0.96]], split="validation")
    found = find_label_errors([validation, test])
    assert [(scores.split, row) for scores, row in found] == [("validation", 2), ("validation", 1)]


def test_a_class_without_images_is_never_suggested():
    found = scores_of([0, 0], [[0.05, 0.05, 0.9], [0.9, 0.05, 0.05]])
    assert find_label_errors([found]) == []
    assert find_label_errors([]) == []


def test_the_table_of_wrong_labels(tmp_path):
    error = LabelError("test", 7, "a, b.png", "cat", 'do"g', 0.9, 0.05)
    path = write_label_errors(tmp_path / "errors.csv", [error])
    assert path.read_text(encoding="utf-8").splitlines() == [
        "split,index,file,label,suggested,confidence,label_probability",
        'test,7,"a, b.png",cat,"do""g",0.9,0.05',
    ]
