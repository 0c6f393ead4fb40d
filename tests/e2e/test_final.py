"""What a run leaves beside its checkpoints: temperature, figures of the test, and their files."""

import csv
import json
import os

import numpy as np
import polars as pl
import pytest
from hafnia.dataset.hafnia_dataset import HafniaDataset

from helpers import TASK, encoded, noise, write_dataset
from trainer_classification.checkpoint.load_model import load_model
from trainer_classification.inference.evaluated_dataset import DataOptions
from trainer_classification.inference.split_logits import run_on_split
from trainer_classification.metrics.calibration import calibration_error, confidence_of, fit_temperature

PLATFORM_SCALARS = {
    *(f"image_classification/{name}_macro" for name in ("precision", "recall", "f1")),
    *(f"image_classification/{name}_weighted" for name in ("precision", "recall", "f1")),
    *(f"image_classification/{name}" for name in ("accuracy", "n_gt_missing", "n_pred_missing")),
    *("test/accuracy", "test/loss"),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """90 train, 20 validation and 20 test images, of which none, every fifth and every third has the wrong label."""
    rows = []
    for number in range(130):
        split, wrong = ("train", 999) if number < 90 else ("validation", 5) if number < 110 else ("test", 3)
        label = (number + (number % wrong == 1)) % 2
        data = encoded(noise(number, 28, 28) // 2 + 110 * (number % 2))
        rows.append({"data": data, "label": "ab"[label], "split": split, "width": 28, "height": 28})
    return write_dataset(tmp_path_factory.mktemp("final") / "tiny", rows, ["a", "b"])


def labeled_images(count, seed=0):
    """Training images of two classes that differ in brightness."""
    return [
        {
            "data": encoded(noise(seed + number, 28, 28) // 2 + 110 * (number % 2)),
            "label": "ab"[number % 2],
            "split": "train",
            "width": 28,
            "height": 28,
        }
        for number in range(count)
    ]


def read_rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture
def run_folder(runner):
    runner("--epochs", "2", "--label-smoothing", "0.2")
    (folder,) = runner.experiments
    return folder


def test_the_temperature_is_that_of_validation_and_calibration_is_measured_on_test(run_folder, runner):
    summary = runner.summary(run_folder)
    model = load_model(run_folder)
    files = ("model/model.pth", "model/model.zip", "checkpoints/best.pth")
    assert [load_model(run_folder / name).temperature for name in files] == [summary["temperature"]] * 3

    def run_on(split):
        prepared = str(runner.folder / "prepared")
        data = DataOptions(str(runner.dataset), split, prepared=prepared, device="cpu", amp="off")
        found = run_on_split(model, data)
        return found.logits, found.labels

    fits = {split: fit_temperature(*run_on(split)).temperature for split in ("validation", "test")}
    assert model.temperature == pytest.approx(fits["validation"], rel=1e-4)
    assert model.temperature != pytest.approx(fits["test"], rel=1e-4)

    logits, labels = run_on("test")
    correct = logits.argmax(1) == labels
    for name, temperature in (("before", 1.0), ("after", fits["validation"])):
        expected = calibration_error(confidence_of(logits, temperature), correct)
        assert summary[f"calibration_error_test_{name}"] == pytest.approx(expected, abs=1e-5)


def tracked_names(folder):
    """Names of the metrics that the tracker was given."""
    return pl.read_parquet(folder / "data/experiment.parquet")["name"].to_list()


def test_the_run_logs_the_platforms_scalars_once_and_writes_classes_and_confusion(run_folder, runner):
    names = tracked_names(run_folder)
    counts = {name: names.count(name) for name in PLATFORM_SCALARS}
    assert counts == dict.fromkeys(PLATFORM_SCALARS, 1)

    summary = runner.summary(run_folder)
    classes = read_rows(run_folder / "data/classes.csv")
    assert [row["class"] for row in classes] == ["a", "b"]
    confusion = np.array([[int(row["a"]), int(row["b"])] for row in read_rows(run_folder / "data/confusion.csv")])
    assert confusion.sum(1).tolist() == [int(row["support"]) for row in classes]
    assert confusion.sum() == 20
    assert confusion.trace() / 20 == summary["accuracy_test"]


def test_without_validation_no_temperature_is_fitted(runner):
    runner("--epochs", "1", "--validation-fraction", "0")
    (folder,) = runner.experiments
    summary = runner.summary(folder)
    assert (summary["temperature"], summary["calibration_error_test_after"]) == (None, None)
    assert 0 <= summary["calibration_error_test_before"] <= 1
    assert load_model(folder).temperature is None
    assert json.loads((folder / "data/summary.json").read_text()) == summary


def test_a_test_split_without_labels_is_predicted_and_gives_no_figures(runner, tmp_path):
    given = labeled_images(50)
    given += [row | {"label": None, "split": "test"} for row in labeled_images(10, seed=50)]
    runner.dataset = write_dataset(tmp_path / "withheld", given, ["a", "b"])
    output = runner()
    assert "The test split has no labels" in output

    (folder,) = runner.experiments
    summary = runner.summary(folder)
    figures = {name: value for name, value in summary.items() if "test" in name}
    assert figures.keys() >= {"accuracy_test", "balanced_accuracy_test", "loss_test", "calibration_error_test_before"}
    assert set(figures.values()) == {None}
    assert "test/accuracy" not in tracked_names(folder)

    lines = [json.loads(line) for line in (folder / "data/predictions-test_unlabeled.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == [f"data/{number:05d}.png" for number in range(50, 60)]
    assert [line["class"] for line in lines] == ["a", "b"] * 5
    assert all(0.5 <= line["confidence"] <= 1 and line["model"] == summary["model_id"] for line in lines)


def test_rows_of_a_table_without_a_label_are_predicted(runner, tmp_path):
    images = labeled_images(60)
    for number, row in enumerate(images):
        (tmp_path / f"{number}.png").write_bytes(row["data"])
    lines = [f"{number}.png,{row['label'] if number < 50 else ''}" for number, row in enumerate(images)]
    runner.dataset = tmp_path / "photos.csv"
    runner.dataset.write_text("\n".join(["path,label", *lines]))
    runner()

    (folder,) = runner.experiments
    assert runner.summary(folder)["accuracy_test"] is not None
    found = HafniaDataset.from_path(folder / "data/predictions-train_unlabeled", check_for_images=False)
    names = [row["path"] for row in found.samples["meta"].to_list()]
    assert names == [f"{number}.png" for number in range(50, 60)]
    entries = found.samples["classifications"].to_list()
    assert [(entry["class_name"], entry["task_name"]) for (entry,) in entries] == [
        (name, f"{TASK}/predictions") for name in "ab" * 5
    ]


def test_the_platform_reads_what_was_predicted(runner, tmp_path):
    """The rows are the dataset's own, that of a broken image included; the images are looked for nowhere."""
    given = labeled_images(50)
    given += [row | {"label": None, "split": "test"} for row in labeled_images(10, seed=50)]
    runner.dataset = write_dataset(tmp_path / "withheld", given, ["b", "a"])
    table = pl.read_parquet(runner.dataset / "annotations.parquet")
    table = table.with_columns(remote_path=pl.format("s3://bucket/{}", "file_path"))
    table.write_parquet(runner.dataset / "annotations.parquet")
    broken = runner.dataset / "data/00055.png"
    broken.write_bytes(broken.read_bytes()[:40])
    runner("--on-bad-image", "skip")

    (folder,) = runner.experiments
    found = HafniaDataset.from_path(folder / "data/predictions-test_unlabeled", check_for_images=False)
    assert [task.name for task in found.info.tasks] == [TASK, f"{TASK}/predictions"]
    assert found.info.meta["predictions"]["model"] == runner.summary(folder)["model_id"]
    assert set(found.samples["split"]) == {"test"}

    entries = dict(zip(found.samples["remote_path"], found.samples["classifications"].to_list(), strict=True))
    assert entries.pop("s3://bucket/data/00055.png") == []
    lines = (folder / "data/predictions-test_unlabeled.jsonl").read_text().splitlines()
    rows = {f"s3://bucket/{row['path']}": row for row in map(json.loads, lines)}
    assert entries.keys() == rows.keys()
    for path, (entry,) in entries.items():
        assert entry["class_name"] == rows[path]["class"]
        assert entry["class_idx"] == ["b", "a"].index(entry["class_name"])
        assert entry["confidence"] == pytest.approx(rows[path]["confidence"])
        assert (entry["ground_truth"], entry["task_name"]) == (False, f"{TASK}/predictions")


def test_no_output_names_the_folders_of_the_user(run_folder, runner):
    """The dataset and the prepared folder are given by absolute paths, as Runner does; --resume needs them."""
    secrets = {os.fsencode(path) for path in (runner.folder, runner.dataset, runner.dataset.parent)}
    files = [path for path in run_folder.rglob("*") if path.is_file() and path.name != "last.pth"]
    assert {"model.pth", "report.html", "configuration.json"} <= {path.name for path in files}
    named = {path.name for path in files for secret in secrets if secret in path.read_bytes()}
    assert named == set()
