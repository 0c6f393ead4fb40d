"""What a user wants written never replaces what is read, and what cannot be written is said before the work."""

import os
from pathlib import Path

import pytest

from helpers import rows, write_dataset
from trainer_classification import files
from trainer_classification.config import EvaluateConfig, PredictConfig, PrepareConfig, TrainConfig
from trainer_classification.files import write_atomically
from trainer_classification.inference import command
from trainer_classification.inference.evaluate_command import run_evaluation
from trainer_classification.output_paths import OutputFile, check_output_files, check_output_folder
from trainer_classification.preparation import pipeline
from trainer_classification.training.dataset import prepare_dataset
from trainer_classification.training.distributed import World


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with photos, a table, a run, a prepared and a Hafnia dataset; each file holds its own name."""
    monkeypatch.chdir(tmp_path)
    names = (
        *("photos/a.png", "photos/b.png", "photos/labels.csv", "labels.csv", "data.json", "features.npy"),
        *("run/model/model.pth", "run/data/summary.json", "run/data/classes.csv", "run/evaluation.json"),
        *("prepared/manifest.json", "prepared/table/test.files.json", "hafnia/dataset_info.json"),
    )
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    os.mkfifo("pipe.json")
    os.link("labels.csv", "other_name.csv")
    Path("folder.json").mkdir()
    yield tmp_path
    assert [name for name in names if Path(name).read_text() != name] == []
    assert not list(tmp_path.rglob("*.tmp"))


PREDICT = ({"paths": "photos/b.png"}, command.run, PredictConfig)
EVALUATE = ({}, run_evaluation, EvaluateConfig)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (PREDICT, {"embeddings": "photos/a.png"}, r"--embeddings .* must end in \.npy, but is photos/a\.png"),
        (PREDICT, {"embeddings": "photos/b.png"}, r"must end in \.npy"),
        (PREDICT, {"embeddings": "run/model/model.pth"}, r"must end in \.npy"),
        (PREDICT, {"embeddings": "photos"}, "--embeddings photos is a folder"),
        (PREDICT, {"embeddings": "no/x.npy"}, "there is no folder no"),
        (PREDICT, {"embeddings": "features.npy", "paths": "photos/b.png\nfeatures.npy"}, "input of this command"),
        (EVALUATE, {"dataset": "labels.csv", "csv_file": "labels.csv"}, "--csv-file labels.csv is an input"),
        (EVALUATE, {"dataset": "labels.csv", "csv_file": "photos/../labels.csv"}, "is an input"),
        (EVALUATE, {"dataset": "labels.csv", "csv_file": "other_name.csv"}, "is an input"),
        (EVALUATE, {"dataset": "data.json", "json_file": "data.json"}, "is an input"),
        (EVALUATE, {"dataset": "photos", "csv_file": "photos/labels.csv"}, "is a file of the dataset photos"),
        (EVALUATE, {"json_file": "run/model/model.pth"}, r"--json-file .* must end in \.json"),
        (EVALUATE, {"json_file": "run/data/summary.json"}, "is a file of the run"),
        (EVALUATE, {"csv_file": "run/data/classes.csv"}, "is a file of the run"),
        (EVALUATE, {"json_file": "prepared/manifest.json"}, "is a file of the prepared dataset prepared"),
        (EVALUATE, {"json_file": "hafnia/dataset_info.json"}, "is a file of the dataset hafnia"),
        (EVALUATE, {"json_file": "x.json", "csv_file": "./x.json"}, "--json-file and --csv-file are the same file"),
        (EVALUATE, {"json_file": "folder.json"}, r"--json-file folder\.json is a folder"),
        (EVALUATE, {"json_file": "folder.json/x"}, r"must end in \.json"),
        (EVALUATE, {"json_file": "labels.csv/x.json"}, r"there is no folder labels\.csv"),
        (EVALUATE, {"json_file": "pipe.json"}, "is a pipe"),
        (EVALUATE, {"json_file": "/proc/x.json"}, r"--json-file /proc/x\.json cannot be written"),
        (EVALUATE, {"csv_file": f"{'x' * 250}.csv"}, "cannot be written"),
    ],
)
def test_an_output_that_would_be_a_loss_is_refused_before_any_work(monkeypatch, kind, options, message):
    given, run, config = kind
    for module in ("command", "evaluate_command"):
        monkeypatch.setattr(f"trainer_classification.inference.{module}.load_model", lambda _: pytest.fail("work"))
    with pytest.raises(ValueError, match=message) as error:
        run(config(**{"model": "run", **given, **options}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("option", "path", "suffix"),
    [
        ("--embeddings", "features.npy", ".npy"),  # of the run before
        ("--embeddings", "photos/new.NPY", ".npy"),
        ("--json-file", "run/evaluation.json", ".json"),
        ("--json-file", "run/data/evaluation.json", ".json"),
        ("--output", "run/model/model.onnx", ".onnx"),
        ("--csv-file", "", ".csv"),
    ],
)
def test_an_output_that_replaces_at_most_an_older_one_is_taken(here, option, path, suffix):
    Path("run/model/model.onnx").touch()
    before = sorted(here.rglob("*"))
    check_output_files([OutputFile(option, path, suffix)], ["run", "photos/a.png", "", "gone"], folder="photos")
    assert sorted(here.rglob("*")) == before


def prepare_into(folder, dataset):
    pipeline.prepare(PrepareConfig(dataset=dataset, prepared=folder))


def train_into(folder, dataset):
    prepare_dataset(TrainConfig(dataset=dataset, output_dir=folder, device="cpu"), World())


@pytest.mark.parametrize("folder", ["/dev/null", "/proc", "labels.csv", "labels.csv/deep/er"])
@pytest.mark.parametrize(("option", "run"), [("--prepared", prepare_into), ("--output-dir", train_into)])
def test_a_folder_that_cannot_be_made_is_said_before_the_dataset_is_prepared(monkeypatch, folder, option, run):
    dataset = str(write_dataset(Path("d"), rows(4), ["a", "b"]))
    monkeypatch.setattr(pipeline, "build_dataset", lambda _: pytest.fail("work"))
    with pytest.raises(ValueError, match=f"^{option} {folder}"):
        run(folder, dataset)
    assert not Path(".data").exists()


@pytest.mark.parametrize("folder", [".", "photos", "new/deep/er"])
def test_a_folder_that_can_be_made_is_left_as_it_is(here, folder):
    before = sorted(here.rglob("*"))
    check_output_folder("--output-dir", Path(folder))
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("name", ["folder.json", "no/x.json"])
def test_a_write_that_fails_names_the_file_that_the_user_knows(name):
    with pytest.raises(OSError, match=f"{name}'$") as error:
        write_atomically(Path(name), "text")
    assert error.value.filename == name
    assert files.temporary_path(Path(name)) != Path(name)
