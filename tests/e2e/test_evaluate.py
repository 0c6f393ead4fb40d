"""evaluate.py repeats the figures of the run, and compares two models."""

import csv
import json
import os
import subprocess
from pathlib import Path

import pytest

from helpers import encoded, noise, write_dataset
from runner import ROOT, run_forked

DATASET = ROOT / "samples/mnist"


class Workplace:
    """A folder to run scripts in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("HAFNIA", "MDI", "MLFLOW"))}

    def __call__(self, script: str, *options: str, code: int = 0) -> subprocess.CompletedProcess:
        done = run_forked(self.folder, script, "--device", "cpu", *options, environment=self.environment)
        assert done.returncode == code, done.stderr[-3000:]
        return done

    def experiment(self, output: str) -> Path:
        (found,) = (self.folder / output / "experiments").iterdir()
        return found


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder in which two networks were trained for an epoch on the bundled sample of mnist."""
    place = Workplace(tmp_path_factory.mktemp("evaluate"))
    for output, learning_rate in (("good", "0.1"), ("bad", "0.00001")):
        place(
            *("train", "--dataset", str(DATASET), "--epochs", "1", "--batch-size", "64"),
            *("--learning-rate", learning_rate, "--output-dir", output),
        )
    return place


def test_the_figures_are_those_that_the_run_gave_of_its_test(workplace):
    experiment = workplace.experiment("good")
    done = workplace(
        *("evaluate", "--model", str(experiment), "--dataset", str(DATASET)),
        *("--json-file", "figures.json", "--csv-file", "classes.csv"),
    )
    summary = json.loads((experiment / "data/summary.json").read_text())
    found = json.loads((workplace.folder / "figures.json").read_text())
    assert found["metrics"]["accuracy"] == summary["accuracy_test"]
    assert found["loss"] == pytest.approx(summary["loss_test"], rel=1e-5)
    assert found["balanced_accuracy"] == pytest.approx(summary["balanced_accuracy_test"])
    assert found["fingerprint"] == summary["manifest_fingerprint"]
    assert "prepared already" in done.stderr  # by the training
    assert f"{summary['accuracy_test']:.2%}" in done.stdout
    with (workplace.folder / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["support"]) for row in rows) == found["images"] == 1000


@pytest.mark.slow
def test_photographs_are_seen_as_in_training_unless_told_otherwise(tmp_path):
    workplace = Workplace(tmp_path)
    photos = str(ROOT / "samples/caltech-101")
    done = workplace(
        *("train", "--dataset", photos, "--resize", "32", "--recipe", "speed", "--eval-crop", "0.875"),
        *("--stop-early", "--output-dir", "photos"),
    )
    assert "Validation and test see the central square of 0.875" in done.stderr
    experiment = workplace.experiment("photos")
    summary = json.loads((experiment / "data/summary.json").read_text())
    found = {}
    for view in ("-1", "0"):
        done = workplace(
            *("evaluate", "--model", str(experiment), "--dataset", photos, "--eval-crop", view),
            *("--json-file", f"view{view}.json"),
        )
        found[view] = json.loads((workplace.folder / f"view{view}.json").read_text())
    assert (found["-1"]["eval_crop"], found["0"]["eval_crop"]) == (0.875, 0)
    assert found["-1"]["loss"] == pytest.approx(summary["loss_test"], rel=1e-5)
    assert found["0"]["loss"] != pytest.approx(summary["loss_test"], rel=1e-3)
    assert "sees the whole image" in done.stdout
    assert "0.875 of each image's short side" in (experiment / "model/README.md").read_text()


def test_a_worse_model_is_said_to_be_worse(workplace):
    good, bad = (str(workplace.experiment(name) / "model/model.pth") for name in ("good", "bad"))
    done = workplace(
        "evaluate", "--model", good, "--compare", bad, "--dataset", str(DATASET), "--json-file", "both.json"
    )
    comparison = json.loads((workplace.folder / "both.json").read_text())["comparison"]
    assert comparison["significant"]
    assert "--model is better, by more than noise" in done.stdout


def test_a_gray_model_refuses_a_dataset_in_color(workplace, tmp_path):
    rows = [{"data": encoded(noise(i, 28, 28, 3)), "label": "0 - zero", "split": "test"} for i in range(8)]
    dataset = write_dataset(tmp_path / "color", rows + [row | {"split": "train"} for row in rows], ["0 - zero"])
    done = workplace("evaluate", "--model", str(workplace.experiment("good")), "--dataset", str(dataset), code=2)
    assert "takes gray images, but those of tiny have 3 channels" in done.stderr
    assert "Traceback" not in done.stderr
