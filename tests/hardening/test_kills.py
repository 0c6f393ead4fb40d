"""Commands that are killed at random moments leave no half of a file, and end with the same result afterwards."""

import csv
import json
import shutil
import zipfile

import numpy as np
import pytest
import torch

from forked_commands import ROOT, TRAIN

WRITERS = {
    "evaluate": (("evaluate", "--device", "cpu", "--json-file", "out.json", "--csv-file", "out.csv"), 12),
    "predict": (("predict", "--device", "cpu", "--embeddings", "out.npy", "images"), 12),
    "onnx": (("export", "--output", "out.onnx"), 2),
    "openvino": (("export", "--format", "openvino", "--output", "out.xml"), 2),
    "torch-export": (("export", "--format", "torch-export", "--output", "out.pt2"), 4),
}


def outputs(folder):
    return {path.name: path.read_bytes() for path in folder.glob("out.*")}


def moment(chance, seconds):
    """Half of the moments are in the last fifth, in which files are written."""
    return seconds * (chance.random() if chance.random() < 0.5 else chance.uniform(0.8, 1.0))


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_a_killed_command_leaves_whole_files_or_none(tmp_path, trained, commands, chance, times, name):
    (script, *arguments), count = WRITERS[name]
    arguments = [script, "--model", trained / "run", *arguments]
    if script != "predict":
        arguments += ["--prepared", trained / "prepared"]
    shutil.copytree(trained / "images", tmp_path / "images")
    for _ in range(2):  # the first also warms up
        code, seconds = commands.run(tmp_path, *arguments)
        assert code == 0, (tmp_path / "stderr").read_text()[-3000:]
    whole = outputs(tmp_path)
    printed = (tmp_path / "stdout").read_bytes()
    assert whole

    killed = 0
    for _ in range(times(count)):
        old = {} if chance.random() < 0.5 else dict.fromkeys(whole, b"old")
        for path in whole:
            (tmp_path / path).unlink(missing_ok=True)
            if old:
                (tmp_path / path).write_bytes(old[path])
        code, _ = commands.run(tmp_path, *arguments, kill_after=moment(chance, seconds))
        assert code in (0, -9)
        killed += code != 0
        found = outputs(tmp_path)
        for path in whole:
            assert found.get(path) in (whole[path], old.get(path)), f"{path} is half written"

    assert commands.run(tmp_path, *arguments)[0] == 0
    assert outputs(tmp_path) == whole
    if script == "predict":
        assert (tmp_path / "stdout").read_bytes() == printed
    print(f"{name}: {killed} kills")


def check_whole(folder):
    """Read every file whose name is final."""
    for path in folder.rglob("*"):
        if not path.is_file() or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            assert all(json.loads(line) for line in path.read_text().splitlines())
        elif path.suffix == ".pth":
            torch.load(path, weights_only=True)
        elif path.suffix in (".zip", ".pt2"):
            assert zipfile.ZipFile(path).testzip() is None
        elif path.suffix == ".npy":
            np.load(path)
        elif path.suffix == ".csv":
            assert list(csv.reader(path.read_text().splitlines()))
        elif path.suffix in (".md", ".html", ".txt"):
            assert path.read_text().endswith(("\n", "</html>"))


def result(run):
    weights = torch.load(run / "model/model.pth", weights_only=True)["state"]["model"]
    summary = json.loads((run / "data/summary.json").read_text())
    rows = [json.loads(line) for line in (run / "data/metrics.jsonl").read_text().splitlines()]
    names = ("accuracy_test", "loss_test", "accuracy_validation", "best_epoch", "model_id", "temperature")
    curve = [(row["loss_train"], row["loss_validation"]) for row in rows]
    return {name: tensor.tolist() for name, tensor in weights.items()}, [summary[name] for name in names], curve


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "count"), [(1, 4), (2, 1)])
def test_a_training_killed_at_random_moments_and_resumed_ends_as_a_straight_one(
    tmp_path, trained, commands, chance, times, processes, count
):
    """Each run is killed up to three times, also while it prepares. Of two processes their launcher is killed."""
    options = ("train", *TRAIN, "--dataset", ROOT / "samples/mnist", "--epochs", "4", "--processes", str(processes))
    whole = tmp_path / "whole"
    whole.mkdir()
    code, seconds = commands.run(whole, *options, "--prepared", trained / "prepared")
    assert code == 0, (whole / "stderr").read_text()[-3000:]
    (run,) = (whole / ".data/experiments").iterdir()
    check_whole(whole / ".data")
    expected = result(run)

    killed = 0
    for number in range(times(count)):
        folder = tmp_path / str(number)
        folder.mkdir()
        prepared = folder / "prepared" if number % 4 == 0 else trained / "prepared"
        arguments = (*options, "--prepared", prepared, "--resume", "auto")
        for _ in range(3):
            code, _ = commands.run(folder, *arguments, kill_after=moment(chance, seconds))
            assert code in (0, -9), (folder / "stderr").read_text()[-3000:]
            killed += code != 0
            for place in (folder / ".data", folder / "prepared"):
                check_whole(place)
        code, _ = commands.run(folder, *arguments)
        errors = (folder / "stderr").read_text()
        assert code == 0 or "is finished" in errors, errors[-3000:]
        runs = [path for path in (folder / ".data/experiments").iterdir() if (path / "data/summary.json").is_file()]
        assert runs
        for run in runs:
            assert result(run) == expected
        shutil.rmtree(folder)
    print(f"training in {processes} processes: {killed} kills")
