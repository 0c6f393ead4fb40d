"""The platform's call and evaluate on real photographs, against the SDK's metrics and a plain calculation."""

import dataclasses
import os
import shutil
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hafnia.dataset.benchmark.benchmark import run_benchmark
from hafnia.dataset.hafnia_dataset import HafniaDataset

from helpers import TASK
from trainer_classification.checkpoint.load_model import load_model
from trainer_classification.config import PredictConfig, PrepareConfig, TrainConfig
from trainer_classification.data.table import open_table
from trainer_classification.inference.command import run
from trainer_classification.inference.evaluate import evaluate
from trainer_classification.inference.inference_model import ClassificationModel
from trainer_classification.inference.predictor import Predictor
from trainer_classification.preparation.pipeline import prepare
from trainer_classification.training.train import train_prepared

FOLDER = Path(os.environ.get("TC_DATA", "")) / "caltech-101"
ABSENT = "accordion"
PREDICTIONS = f"{TASK}/predictions"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (FOLDER / "annotations.parquet").is_file(), reason="TC_DATA names no folder that holds caltech-101"
    ),
]


class Caltech:
    """Every fifth photograph but those of one class, and a network that was trained on them for some steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dataset = folder / "caltech-101"
        self.dataset.mkdir()
        (self.dataset / "data").symlink_to(FOLDER / "data")
        shutil.copy(FOLDER / "dataset_info.json", self.dataset)
        table = pl.read_parquet(FOLDER / "annotations.parquet")[::5]
        self.labels = table["classifications"].list.first().struct.field("class_name")
        table.filter(self.labels != ABSENT).write_parquet(self.dataset / "annotations.parquet")

        self.options = {"dataset": str(self.dataset), "prepared": str(folder / "prepared")}
        self.prepared = prepare(PrepareConfig(**self.options, image_size=32, formats="array"))
        config = TrainConfig(
            model="speednet", recipe="speed", epochs=3, batch_size=64, device="cpu", output_dir=str(folder)
        )
        self.summary = train_prepared(config, self.prepared.folder, self.prepared.manifest, time.monotonic())
        (run_folder,) = (folder / "experiments").iterdir()
        self.archives = folder / "archives"
        self.archives.mkdir()
        shutil.copy(run_folder / "model/model.zip", self.archives)
        self.model = load_model(self.archives / "model.zip")

    def predict(self, dataset: Path, output: Path) -> HafniaDataset:
        """Return what the platform's call writes, read by the SDK."""
        folders = {"model_dir": str(self.archives), "dataset_dir": str(dataset), "output_dir": str(output)}
        assert run(PredictConfig(**folders, device="cpu")) == 0
        return HafniaDataset.from_path(output, check_for_images=False)


@pytest.fixture(scope="module")
def caltech(tmp_path_factory):
    return Caltech(tmp_path_factory.mktemp("platform"))


def test_the_sdk_scores_the_platforms_call_as_the_run_its_test(caltech, tmp_path):
    found = caltech.predict(caltech.dataset, tmp_path / "out")
    dataset = HafniaDataset.from_path(caltech.dataset)
    scores, _ = run_benchmark(dataset, ClassificationModel(caltech.model, device="cpu"), batch_size=64)
    assert found.calculate_classification_metrics(PREDICTIONS, TASK).accuracy == scores[f"{TASK}/accuracy"]

    files = set(open_table(caltech.prepared.folder, caltech.prepared.manifest, "test").files)
    paths = pl.read_parquet(caltech.dataset / "annotations.parquet")["file_path"]
    found.samples = found.samples.filter(paths.is_in(list(files)))
    metrics = found.calculate_classification_metrics(PREDICTIONS, TASK)
    assert metrics.accuracy == pytest.approx(caltech.summary["accuracy_test"], abs=1e-12)
    assert metrics.accuracy > 0.1

    report = evaluate(caltech.model, split="test", device="cpu", **caltech.options)
    assert len(report.files) == len(files)
    assert report.averages == pytest.approx(metrics.model_dump(exclude={"per_class"}), abs=1e-12)
    rows = report.to_json()["per_class"]
    assert rows[ABSENT]["support"] == 0
    for name, figures in metrics.per_class.items():
        assert rows[name]["support"] == figures.support
        assert rows[name]["f1"] == pytest.approx(figures.f1, abs=1e-12)


def test_the_same_is_predicted_without_labels(caltech, tmp_path):
    withheld = tmp_path / "withheld"
    shutil.copytree(caltech.dataset, withheld, symlinks=True)
    table = pl.read_parquet(withheld / "annotations.parquet")
    empty = pl.lit([], dtype=table.schema["classifications"])
    table.with_columns(classifications=empty).write_parquet(withheld / "annotations.parquet")

    predicted = []
    for dataset, count in ((caltech.dataset, 2), (withheld, 1)):
        found = caltech.predict(dataset, tmp_path / f"out{count}")
        entries = found.samples["classifications"].to_list()
        assert {len(row) for row in entries} == {count}
        predicted.append([(row[-1]["class_name"], row[-1]["confidence"]) for row in entries])
    assert predicted[0] == predicted[1]


def test_figures_are_those_of_a_plain_calculation_with_ties_and_an_absent_class(caltech):
    """Two classes always have equal logits: that with the lower index is predicted, and never has an image."""
    names = list(caltech.model.class_names)
    absent = names.index(ABSENT)
    twin = int(np.argmax(caltech.prepared.manifest.splits["test"].per_class))
    assert twin > absent
    network = load_model(caltech.archives / "model.zip").network
    with torch.no_grad():
        network.fc.weight[absent] = network.fc.weight[twin]
    model = dataclasses.replace(caltech.model, network=network)
    report = evaluate(model, split="test", device="cpu", **caltech.options)

    # The photographs themselves, through the predictor: it shares no code of the metrics.
    table = open_table(caltech.prepared.folder, caltech.prepared.manifest, "test")
    paths = [str(caltech.dataset / file) for file in table.files]
    plain = dataclasses.replace(model, temperature=None)
    found = list(Predictor(plain, "cpu").predict(paths, top_k=len(names)))
    labels = [names[label] for label in table.labels]
    guesses = [prediction.class_name for prediction in found]
    assert names[twin] in labels
    assert names[twin] not in guesses
    assert ABSENT in guesses

    right = [label == guess for label, guess in zip(labels, guesses, strict=True)]
    assert report.correct.tolist() == right
    first_five = [label in prediction.classes[:5] for label, prediction in zip(labels, found, strict=True)]
    assert report.top5_accuracy == pytest.approx(np.mean(first_five), abs=1e-12)
    of_label = [
        prediction.confidences[prediction.classes.index(label)] for label, prediction in zip(labels, found, strict=True)
    ]
    assert report.loss == pytest.approx(-np.mean(np.log(of_label)), rel=1e-4)
    recalls = {
        name: np.mean([r for r, label in zip(right, labels, strict=True) if label == name]) for name in set(labels)
    }
    assert report.balanced_accuracy == pytest.approx(np.mean(list(recalls.values())), abs=1e-12)
    assert report.averages["recall_macro"] == pytest.approx(sum(recalls.values()) / len(names), abs=1e-12)
