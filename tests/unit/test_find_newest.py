"""`--resume auto` takes what is not done: a training that was stopped, or one whose outputs are missing."""

import dataclasses
import os

import pytest

from helpers import meta_of
from trainer_classification.checkpoint import file as checkpoint
from trainer_classification.config import TrainConfig
from trainer_classification.training.start_checkpoint import choose_start


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("MDI_CHECKPOINT_DIR", str(tmp_path / "cloud/checkpoints"))
    monkeypatch.setenv("MDI_ARTIFACT_DIR", str(tmp_path / "cloud/data"))
    monkeypatch.delenv("HAFNIA_CLOUD", raising=False)


def save(path, seconds, finished):
    meta = meta_of()
    meta = dataclasses.replace(meta, progress=dataclasses.replace(meta.progress, finished=finished))
    path.parent.mkdir(parents=True)
    checkpoint.save(path, {"model": {}, "optimizer": {}}, meta)
    os.utime(path, (seconds, seconds))
    return path


def complete(folder):
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "data/summary.json").write_text("{}")


def start(tmp_path):
    return choose_start(TrainConfig(resume="auto", project_name="p", output_dir=str(tmp_path)))


@pytest.mark.parametrize("place", ["experiments/b", "cloud"])
def test_a_finished_checkpoint_is_resumed_until_its_summary_is_written(tmp_path, place):
    save(tmp_path / "experiments/a/checkpoints/last.pth", 1, finished=False)
    newest = save(tmp_path / place / "checkpoints/last.pth", 2, finished=True)
    found = start(tmp_path)
    assert (found.kind, found.path) == ("resume", newest)
    assert "has not written its outputs" in found.reason

    complete(tmp_path / place)
    found = start(tmp_path)
    assert (found.kind, found.path) == ("new", None)
    assert "is finished" in found.reason
