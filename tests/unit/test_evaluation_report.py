"""A model is evaluated by the names of its classes, in whatever order a dataset has them."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn

from trainer_classification.checkpoint.load_model import Model
from trainer_classification.config import EvaluateConfig
from trainer_classification.inference.class_map import map_classes
from trainer_classification.inference.evaluate import build_report, compare_reports
from trainer_classification.inference.evaluate_command import _comparison_json, run_evaluation
from trainer_classification.inference.split_logits import SplitLogits


def model_of(class_names, temperature=None):
    return Model(
        network=nn.Linear(1, len(class_names)),
        name="resnet-small",
        class_names=tuple(class_names),
        image_size=28,
        channels=1,
        mean=(0.5,),
        std=(0.5,),
        dataset="tiny",
        source="model.pth",
        resized=False,
        array_size=28,
        temperature=temperature,
    )


def logits_of(class_names, labels, logits, files=None):
    splits = {"test": SimpleNamespace(origin="dataset"), "validation": SimpleNamespace(origin="cut from train")}
    manifest = SimpleNamespace(
        dataset="tiny",
        version="1",
        fingerprint="f",
        task="t",
        class_names=list(class_names),
        splits=splits,
        gray_shift=8,
    )
    names = files or [f"{number}.png" for number in range(len(labels))]
    return SplitLogits(manifest, names, np.array(logits, np.float32), np.array(labels))


def test_classes_match_by_name_and_what_differs_is_said():
    found = map_classes(["cat", "dog", "owl"], ["dog", "emu", "cat"])
    assert found.output_of.tolist() == [1, -1, 0]
    assert found.column_of.tolist() == [2, 0, 3]
    assert found.column_names == ("dog", "emu", "cat", "owl")
    assert "does not know 1 of the dataset's 3 classes" in found.notes[0]
    assert "emu" in found.notes[0]
    assert "lacks 1 of the model's 3 classes" in found.notes[1]
    assert "owl" in found.notes[1]


def test_equal_classes_need_no_note():
    assert map_classes(["a", "b"], ["a", "b"]).notes == ()


def test_without_a_common_class_there_is_nothing_to_evaluate():
    with pytest.raises(ValueError, match="no class in common"):
        map_classes(["a"], ["b"])


def test_the_order_of_the_datasets_classes_changes_no_figure():
    logits = np.random.default_rng(0).normal(size=(40, 3))
    labels = np.arange(40) % 3
    model = model_of("abc")
    same = build_report(model, logits_of("abc", labels, logits), "test").to_json()
    turned = build_report(model, logits_of("cab", (labels + 1) % 3, logits), "test").to_json()
    assert turned.pop("metrics") == pytest.approx(same.pop("metrics"), abs=1e-12)
    assert turned.pop("balanced_accuracy") == pytest.approx(same.pop("balanced_accuracy"), abs=1e-12)
    turned.pop("model_id")
    same.pop("model_id")
    assert turned == same


def test_images_of_an_unknown_class_and_predictions_of_an_absent_one_are_wrong():
    # The model knows a, b and x; the dataset has a, b and new.
    logits = [[3, 0, 0], [0, 3, 0], [0, 0, 3], [3, 0, 0]]
    report = build_report(model_of("abx"), logits_of(["a", "b", "new"], [0, 1, 1, 2], logits), "test")
    assert report.correct.tolist() == [True, True, False, False]
    assert report.confusion.tolist() == [[1, 0, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0]]
    assert report.accuracy == 0.5
    assert report.averages["recall_macro"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert report.top5_accuracy == 0.75
    assert list(report.to_json()["per_class"]) == ["a", "b", "new"]
    expected = [-np.log(np.exp(3) / (np.exp(3) + 2))] * 2 + [-np.log(1 / (np.exp(3) + 2))]
    assert report.loss == pytest.approx(np.mean(expected))


def test_among_equal_logits_the_models_lowest_class_wins():
    report = build_report(model_of("ab"), logits_of("ba", [1, 0], [[1, 1], [1, 1]]), "test")
    assert report.correct.tolist() == [True, False]


def test_the_temperature_lowers_the_calibration_error_of_a_model_that_is_too_sure():
    logits = np.tile([[8.0, 0.0]], (10, 1))
    labels = [0] * 7 + [1] * 3
    plain = build_report(model_of("ab"), logits_of("ab", labels, logits), "test")
    cooled = build_report(model_of("ab", 8 / np.log(7 / 3)), logits_of("ab", labels, logits), "test")
    assert plain.calibration_error == cooled.calibration_error == pytest.approx(0.3, abs=0.001)
    assert plain.to_json()["calibration_error_after"] is None
    assert cooled.calibration_error_after == pytest.approx(0, abs=1e-6)


def test_the_figures_name_the_model_without_the_folders_of_the_user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logits = logits_of("ab", [0], [[1, 0]])
    shown = {}
    for path in ("runs/one/model.pth", str(tmp_path / "runs/one/model.pth"), "/home/alice/one/model.pth"):
        report = build_report(dataclasses.replace(model_of("ab"), source=Path(path)), logits, "test")
        shown[path] = report.to_json()["model"]
        compared = _comparison_json(compare_reports(report, report), report, "")
        assert compared["model"] == shown[path]
        assert len(compared["model_id"]) == 16
    assert list(shown.values()) == ["runs/one/model.pth", "runs/one/model.pth", "model.pth"]


def test_what_cannot_be_measured_is_null():
    report = build_report(model_of("ax"), logits_of("ab", [1, 1], [[1, 0], [0, 1]]), "test")
    assert report.to_json()["loss"] is None


def test_models_are_compared_image_by_image_whatever_the_order():
    logits = [[1, 0], [0, 1], [0, 1]]
    first = build_report(model_of("ab"), logits_of("ab", [0, 0, 0], logits), "test")
    turned = logits_of("ab", [0, 0, 0], logits[::-1], ["2.png", "1.png", "0.png"])
    assert compare_reports(first, build_report(model_of("ab"), turned, "test")).only_first == 0
    other = build_report(model_of("ab"), logits_of("ab", [0], [[1, 0]]), "test")
    with pytest.raises(ValueError, match="different images"):
        compare_reports(first, other)


def test_a_split_that_was_cut_is_said_to_be():
    report = build_report(model_of("ab", 2.0), logits_of("ab", [0], [[1, 0]]), "validation")
    assert any("cut from train" in note for note in report.notes)
    assert any("temperature was fitted" in note for note in report.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--model is needed"),
        ({"model": "nowhere"}, "There is no model nowhere"),
        ({"model": "x", "json_file": "no/such/figures.json"}, "no folder no/such"),
    ],
)
def test_a_wrong_option_is_refused_before_the_work(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        run_evaluation(EvaluateConfig(**options))
    assert not list(tmp_path.iterdir())


def test_a_dataset_that_is_shown_by_other_bits_is_noted():
    found = logits_of("ab", [0, 1], [[1, 0], [0, 1]])
    assert build_report(model_of("ab"), found, "test").notes == ()
    found.manifest.gray_shift = 4
    (note,) = build_report(model_of("ab"), found, "test").notes
    assert "lost 4 bits here, but 8 in what the model was trained on" in note
