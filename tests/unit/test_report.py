"""The report says what the run came to, and shows what the numbers are worth."""

import dataclasses

import numpy as np
import pytest

from trainer_classification.data.manifest import Manifest, SplitInfo
from trainer_classification.metrics.confusion import list_cells
from trainer_classification.outputs.report import (
    _plot_confusion,
    _save_picture,
    class_rows,
    confused_pairs,
    write_report,
)
from trainer_classification.outputs.summary import REQUIRED

CONFUSION = np.array([[8, 2, 0], [0, 5, 5], [0, 0, 0]])


@pytest.fixture
def manifest():
    splits = {"train": SplitInfo(33, "dataset", [10, 20, 3]), "test": SplitInfo(20, "cut, 20% of train", [10, 10, 0])}
    return Manifest(
        dataset="tiny <b>",
        version="1.0.0",
        task="t",
        root="/data",
        formats={},
        class_names=["cat", "<script>", "absent"],
        splits=splits,
        channels=1,
        image_size=28,
        train_size=28,
        resized=False,
        layout="HWC",
        mean=[0.5],
        std=[0.2],
        files={},
        skipped=[{"file": "a.png", "split": "train", "reason": "empty file"}],
        unlabelled=0,
        duplicates=[],
        options={},
        fingerprint="f",
    )


def test_classes_come_worst_first_and_absent_ones_are_left_out(manifest):
    rows = class_rows(manifest, CONFUSION)
    assert [(row.name, row.test, row.train, row.accuracy) for row in rows] == [
        ("<script>", 10, 20, 0.5),
        ("cat", 10, 10, 0.8),
    ]


def test_mistakes_come_most_frequent_first(manifest):
    assert confused_pairs(manifest, CONFUSION) == [("<script>", "absent", 5), ("cat", "<script>", 2)]


@pytest.mark.parametrize("confusion", [CONFUSION, list_cells(CONFUSION), None])
def test_the_page_is_whole_and_escapes_names(tmp_path, manifest, confusion):
    summary = dict.fromkeys(REQUIRED) | {
        "accuracy_test": 0.65,
        "seconds_training": 1.5,
        "images_per_second": 1234.5,
        "data_wait_fraction": 0.01,
        "best_epoch": 1,
    }
    history = [{"epoch": 1, "loss_train": 1.0, "accuracy_train": 0.5}]
    page = write_report(tmp_path, manifest, {"recipe_model": "m"}, history, summary, confusion).read_text()
    assert "65.00%" in page
    assert "<script>" not in page
    assert "tiny &lt;b&gt;" in page
    assert "a.png: empty file" in page
    assert "http" not in page
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert (tmp_path / "confusion.png").exists() == isinstance(confusion, np.ndarray)
    assert ("confusion matrix" in page) == isinstance(confusion, np.ndarray)
    assert ("Most frequent mistakes" in page) == (confusion is not None)


@pytest.mark.parametrize("name", ["$", "$x$ \\frac", r"$\undefined{$", "a" * 10_000, "two\nlines \x1b[31m", "_^{}%#&~"])
def test_a_class_of_any_name_is_shown_as_text(tmp_path, manifest, name):
    manifest = dataclasses.replace(manifest, class_names=[name, "<script>", "absent"])
    figure = _plot_confusion(manifest, CONFUSION)
    labels = [label for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis) for label in axis.get_ticklabels()]
    assert {len(label.get_text()) <= 30 for label in labels} == {True}
    assert {label.get_parse_math() for label in labels} == {False}
    _save_picture(figure, tmp_path / "confusion.png")
    assert max(len(row.name) for row in class_rows(manifest, CONFUSION)) <= 80
