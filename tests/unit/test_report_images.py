"""Images come into a report only where they may, and neighbors are those with the most similar features."""

import numpy as np
import pytest

from trainer_classification.training import report_images
from trainer_classification.training.report_images import rank_by_cosine
from trainer_classification.training.run_report import explain_no_images


@pytest.mark.parametrize(
    ("choice", "cloud", "shown"),
    [("on", False, True), ("on", True, True), ("off", False, False), ("auto", False, True), ("auto", True, False)],
)
def test_images_are_left_out_where_asked_and_in_the_cloud(monkeypatch, choice, cloud, shown):
    monkeypatch.setattr("trainer_classification.training.run_report.in_cloud", lambda: cloud)
    reason = explain_no_images(choice)
    assert (reason == "") == shown
    assert shown or f"--report-images {choice}" in reason


def test_neighbors_are_the_most_similar_whatever_their_length(monkeypatch):
    """Found block by block as by a full sort."""
    random = np.random.default_rng(0)
    features = random.normal(size=(50, 8)).astype(np.float32) * random.uniform(0.1, 9, (50, 1)).astype(np.float32)
    queries = features[:4] / np.linalg.norm(features[:4], axis=1, keepdims=True)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = np.argsort(-(queries @ unit.T), axis=1)[:, :3]
    monkeypatch.setattr(report_images, "_ROWS", 7)
    found = rank_by_cosine(queries, features, 3)
    assert found.tolist() == expected.tolist()
    assert found[:, 0].tolist() == [0, 1, 2, 3]
    assert rank_by_cosine(queries, features[:2], 3).shape == (4, 2)
