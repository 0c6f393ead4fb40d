"""A run as Training-aaS starts it: its dataset, folders, tracker, checkpoint and signals."""

import json
import os
import pty
import re
import signal
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from stub_mlflow import tracking

from helpers import TASK, encoded, meta_of, noise, write_dataset
from trainer_classification.checkpoint import archive
from trainer_classification.checkpoint import file as checkpoint

METRIC = re.compile(r"step=\d+ ts='[\dT:.-]+' name='[\w/]+' ent_type='(scalar|metric)' value=\S+")
CAN_BE_PROCESS_1 = subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True).returncode == 0


@pytest.fixture
def cloud(runner, tmp_path):
    """The runner, with the environment that the platform gives."""
    folders = {name: tmp_path / name for name in ("MDI_MODEL_DIR", "MDI_CHECKPOINT_DIR", "MDI_ARTIFACT_DIR")}
    mounted = {"HAFNIA_CLOUD": "true", "MDI_DATASET_DIR": str(runner.dataset)}
    runner.environment |= mounted | {name: str(folder) for name, folder in folders.items()}
    runner.dataset = ""  # the command names none
    runner.checkpoints, runner.artifacts = folders["MDI_CHECKPOINT_DIR"], folders["MDI_ARTIFACT_DIR"]
    return runner


def test_the_tracker_sees_one_run_with_its_options_and_every_epoch(cloud):
    with tracking() as server:
        cloud(**server.environment)
    (run,) = server.runs.values()
    assert run["status"] == "FINISHED"
    assert (run["params"]["batch_size"], run["params"]["recipe_model"]) == ("16", "resnet-small")
    for name in ("train/loss", "train/accuracy", "validation/accuracy"):
        assert [step for key, _, step in run["metrics"] if key == name] == [1, 2, 3]
    assert "accuracy_test" in {key for key, *_ in run["metrics"]}
    assert server.refused == []


def test_on_a_terminal_no_progress_bar_breaks_a_line_of_metrics(cloud):
    ours, theirs = pty.openpty()
    command = cloud.command("--log-interval", "1", "--epochs", "2")
    process = subprocess.Popen(command, cwd=cloud.folder, env=cloud.environment, stdout=theirs, stderr=theirs)
    os.close(theirs)
    text = b""
    try:
        while block := os.read(ours, 1 << 16):
            text += block
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0
    assert b"data-wait" in text  # there was a live line to break them
    lines = [line for line in text.decode().split("\r\n") if "ent_type=" in line]
    assert len(lines) > 20
    assert [line for line in lines if not METRIC.fullmatch(line)] == []


def test_metrics_arrive_while_the_run_goes_on(cloud):
    command = cloud.command("--epochs", "4000")
    with subprocess.Popen(command, cwd=cloud.folder, env=cloud.environment, stdout=subprocess.PIPE, text=True) as run:
        assert any("name='validation/loss'" in line for line in run.stdout)
        assert run.poll() is None
        run.kill()


@pytest.mark.skipif(not CAN_BE_PROCESS_1, reason="making a process namespace is not allowed here")
def test_as_process_1_sigterm_leaves_a_checkpoint_within_20_seconds(cloud):
    with tracking() as server:
        command = ["unshare", "--pid", "--fork", "--kill-child", *cloud.command("--epochs", "4000")]
        environment = cloud.environment | server.environment
        process = subprocess.Popen(command, cwd=cloud.folder, env=environment, stdout=-3, stderr=-1, text=True)
        wait_for(process, "epoch 2/")
        stop(process)
        rest = process.stderr.read()
        process.stderr.close()
        assert process.wait(20) == 128 + signal.SIGTERM
    assert "--resume" in rest
    assert checkpoint.load_meta(cloud.checkpoints / "last.pth").progress.epoch >= 2
    assert archive.read(cloud.checkpoints / "checkpoint.zip").has_checkpoint
    assert [run["status"] for run in server.runs.values()] == ["KILLED"]


@pytest.mark.skipif(not CAN_BE_PROCESS_1, reason="making a process namespace is not allowed here")
def test_as_process_1_sigterm_ends_a_run_that_still_prepares(cloud):
    command = ["unshare", "--pid", "--fork", "--kill-child", *cloud.command()]
    process = subprocess.Popen(command, cwd=cloud.folder, env=cloud.environment, stdout=-3, stderr=-1, text=True)
    wait_for(process, "Preparing")
    stop(process)
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait(20) == 128 + signal.SIGTERM
    assert "Terminated" in rest
    assert "Traceback" not in rest


def wait_for(process, start):
    assert any(line.startswith(start) for line in process.stderr)


def stop(unshare):
    """SIGTERM to the one child of unshare."""
    (child,) = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGTERM)


def stopped_after_an_epoch(cloud, *options):
    """A run that was killed after its first epoch; returns its archive."""
    with subprocess.Popen(
        cloud.command(*options), cwd=cloud.folder, env=cloud.environment, stdout=-3, stderr=-1, text=True
    ) as run:
        wait_for(run, "epoch 1/")
        while not (cloud.checkpoints / "checkpoint.zip").exists():
            assert run.poll() is None
        run.send_signal(signal.SIGTERM)
        run.stderr.read()
    return cloud.checkpoints / "checkpoint.zip"


def pick(cloud, path, name="picked.zip"):
    """Lay an archive where the platform puts one, in folders that are new."""
    content = path.read_bytes()
    for folder in (cloud.checkpoints, cloud.artifacts):
        for file in folder.glob("*"):
            file.unlink()
    (cloud.checkpoints / name).write_bytes(content)


def test_a_picked_checkpoint_goes_on_with_the_losses_of_a_straight_run(cloud):
    cloud()
    straight = losses(cloud)
    for file in cloud.checkpoints.glob("*"):
        file.unlink()
    pick(cloud, stopped_after_an_epoch(cloud))
    errors = cloud()
    assert re.search(r"Resuming picked.zip at epoch [123], step \d", errors)
    assert losses(cloud) == straight
    assert "checkpoint.zip" in os.listdir(cloud.checkpoints)


@pytest.mark.slow
def test_a_picked_checkpoint_of_a_run_with_a_budget_goes_on_as_that_was_planned(cloud):
    options = ("--epochs", "0", "--budget", "30s")
    pick(cloud, stopped_after_an_epoch(cloud, *options))
    assert "Resuming picked.zip at epoch" in cloud(*options)


def losses(cloud):
    lines = (cloud.artifacts / "metrics.jsonl").read_text().splitlines()
    return [(row["loss_train"], row["accuracy_validation"]) for row in map(json.loads, lines)]


def test_a_checkpoint_of_a_finished_training_is_fine_tuned(cloud):
    cloud()
    pick(cloud, cloud.checkpoints / "checkpoint.zip")
    errors = cloud("--epochs", "1", "--learning-rate", "0.001")
    assert re.search(r"Fine-tuning picked.zip: (\d+) of \1 tensors loaded \(its training is finished\)", errors)
    assert losses(cloud)[0][1] > 0.9


def test_one_of_hafnias_own_archives_is_fine_tuned_with_a_new_head(cloud):
    from trainer_classification.models import build

    weights = {name: torch.ones_like(tensor) for name, tensor in build("resnet18", 5, 1, 28, 64).state_dict().items()}
    cloud.checkpoints.mkdir()
    write_plain_archive(cloud.checkpoints / "resnet18.zip", "resnet18", weights, "vwxyz")
    errors = cloud("--model", "auto", "--stop-early")
    assert "resnet18, 28 px" in errors
    assert re.search(r"(\d+) of (\d+) tensors loaded; new are fc.weight, fc.bias \(it holds weights only\)", errors)


def write_plain_archive(path, network, weights, classes):
    config = {"name": network, "task": {"classes": [{"name": name} for name in classes]}, "image_size": 28}
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model_config.json", json.dumps(config | {"model_weight_path": "weights.pth"}))
        with file.open("weights.pth", "w") as member:
            torch.save(weights, member)


def test_an_archive_that_is_none_or_of_another_network_ends_in_a_sentence(cloud):
    cloud.checkpoints.mkdir()
    (cloud.checkpoints / "a.zip").write_bytes(b"PK but no zip")
    assert "a.zip is damaged or not a model archive" in cloud(code=2)
    write_plain_archive(cloud.checkpoints / "a.zip", "vgg", {"features.0.weight": torch.ones(3)}, "ab")
    assert "another network (vgg) and fit none of resnet-small's" in cloud(code=2)


def sample(folder, splits, classes, tasks=None, other=None):
    """As the platform's samples: 200 images in tiny splits, by far not of every class; perhaps a second task."""
    rng = np.random.default_rng(0)
    names = [f"class {number}" for number in range(classes)]
    rows = [
        {
            "data": encoded(noise(int(rng.integers(1e9)), 12, 12, 3)),
            "label": names[rng.integers(classes)],
            "split": split,
        }
        for split, count in splits.items()
        for _ in range(count)
    ]
    root = write_dataset(folder, rows, names, tasks=tasks and tasks(names))
    if other:
        table = pl.read_parquet(root / "annotations.parquet")
        label = [{"class_name": "red", "class_idx": 0, "task_name": other}]
        both = [row + label for row in table["classifications"].to_list()]
        table.with_columns(pl.Series("classifications", both)).write_parquet(root / "annotations.parquet")
    return root


def tasks(names):
    return [
        {"primitive": "Classification", "classes": [{"name": name} for name in names], "name": TASK},
        {"primitive": "Classification", "classes": [{"name": "red"}, {"name": "blue"}], "name": "colour"},
        {"primitive": "Bbox", "classes": [{"name": "car"}], "name": "boxes"},
    ]


def test_a_sample_of_the_platform_trains_though_most_classes_lack_images_in_most_splits(cloud, tmp_path):
    mounted = sample(tmp_path / "sample", {"train": 171, "validation": 4, "test": 25}, 100)
    errors = cloud("--epochs", "1", "--batch-size", "128", MDI_DATASET_DIR=str(mounted))
    assert "classes have no image" in errors
    summary = json.loads((cloud.artifacts / "summary.json").read_text())
    assert 0 <= summary["accuracy_test"] <= 1
    page = (cloud.artifacts / "report.html").read_text(encoding="utf-8")
    assert "<figure>" not in page
    assert "(--report-images auto, in the cloud)" in page


def test_with_other_tasks_beside_it_the_one_to_train_is_chosen(cloud, tmp_path):
    mounted = sample(tmp_path / "sample", {"train": 60, "validation": 10, "test": 10}, 2, tasks, other="colour")
    refused = cloud(MDI_DATASET_DIR=str(mounted), code=2)
    assert f"choose with --task: {TASK}, colour" in refused
    cloud("--task", TASK, "--epochs", "1", MDI_DATASET_DIR=str(mounted))
    assert checkpoint.load_meta(cloud.checkpoints / "best.pth").class_names == ["class 0", "class 1"]


def test_without_any_ground_truth_the_error_says_so(cloud, tmp_path):
    mounted = sample(tmp_path / "sample", {"train": 20}, 2)
    pl.read_parquet(mounted / "annotations.parquet").drop("classifications").write_parquet(
        mounted / "annotations.parquet"
    )
    assert "no labelled images" in cloud(MDI_DATASET_DIR=str(mounted), code=2)


def test_the_config_in_an_archive_is_one_the_sdk_understands(tmp_path):
    from hafnia.dataset.hafnia_dataset_types import TaskInfo

    (tmp_path / "last.pth").write_bytes(b"all")
    path = archive.write(tmp_path, tmp_path / "last.pth", {"fc.bias": torch.ones(2)}, meta_of("resnet18"), TASK)
    config = json.loads(zipfile.ZipFile(path).read("model_config.json"))
    assert TaskInfo.model_validate(config["task"]).get_class_names() == ["a", "b"]
    found = archive.read(path)
    assert torch.equal(found.load_weights()["fc.bias"], torch.ones(2))
    assert found.extract_checkpoint(tmp_path / "out").read_bytes() == b"all"
