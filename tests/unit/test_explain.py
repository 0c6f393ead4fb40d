"""Explain: every file of a run names its parent."""

import json

import numpy as np
import pytest
import torch

from helpers import meta_of
from trainer_classification import models
from trainer_classification.checkpoint import archive
from trainer_classification.checkpoint import file as checkpoint
from trainer_classification.checkpoint.model_id import model_id
from trainer_classification.inference.explain import explain
from trainer_classification.outputs.predictions import name_classes, write_predictions

META = meta_of("resnet18", "ab", image_size=64, width=0, mean=[0.5, 0.5, 0.45], fingerprint="f00d")


@pytest.fixture
def run_folder(tmp_path):
    torch.manual_seed(0)
    weights = models.build("resnet18", 2, 3, 64).state_dict()
    for name in ("model", "data"):
        (tmp_path / name).mkdir()
    checkpoint.save(tmp_path / "model/model.pth", {"model": weights}, META)
    archive.write(tmp_path / "model", None, weights, META, "task")
    logits = np.array([[0, 1], [2, 0]], np.float32)
    path = tmp_path / "data/predictions-test_unlabeled.jsonl"
    write_predictions(path, ["x.png", "y.png"], name_classes(logits, "ab", 0.5), model=model_id(weights))
    return tmp_path


def test_the_chain_goes_from_predictions_over_the_model_to_the_dataset(run_folder):
    chain = explain(run_folder / "data/predictions-test_unlabeled.jsonl")
    kinds = [line.split(":")[0].split()[0] for line in chain]
    assert kinds == ["predictions", "model", "dataset"]
    name = chain[0].split()[-1]
    assert chain[1].startswith(f"model {name}: resnet18, 64 px, 2 classes")
    assert chain[2].startswith("dataset f00d: cifar")


def test_model_and_archive_have_one_name_and_other_weights_another(run_folder):
    names = {explain(run_folder / "model" / name)[0].split(":")[0] for name in ("model.pth", "model.zip")}
    assert len(names) == 1
    changed = {"w": torch.zeros(2)}
    assert model_id(changed) != model_id({"w": torch.tensor([0.0, 1e-9])})


def test_a_model_that_did_not_make_the_predictions_is_not_taken_for_theirs(run_folder):
    path = run_folder / "data/predictions-test_unlabeled.jsonl"
    rows = [json.loads(line) | {"model": "0" * 16} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "not the one in" in explain(path)[1]


def test_predictions_are_the_likeliest_classes_with_their_confidence(run_folder):
    path = run_folder / "data/predictions-test_unlabeled.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["path"], row["class"]) for row in rows] == [("x.png", "b"), ("y.png", "a")]
    assert [row["confidence"] for row in rows] == pytest.approx([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-4))])


def test_a_dataset_with_predictions_names_model_and_dataset(tmp_path):
    info = {"dataset_name": "tiny", "tasks": []}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="without predictions of this trainer"):
        explain(tmp_path)

    info["meta"] = {"predictions": {"model": "0123", "manifest_fingerprint": "f00d"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    chain = explain(tmp_path)
    assert chain[0].endswith("tiny, made by model 0123")
    assert [line.split(":")[0] for line in chain[1:]] == ["model 0123", "dataset f00d"]
