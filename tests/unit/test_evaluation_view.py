"""Evaluation sees a central square of whole pixels, which recipe, checkpoint, archive and evaluation agree on."""

import dataclasses
import json
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import meta_of
from trainer_classification.checkpoint import archive
from trainer_classification.checkpoint import file as checkpoint
from trainer_classification.checkpoint.load_model import load_model
from trainer_classification.checkpoint.meta import CheckpointMeta
from trainer_classification.config import EvaluateConfig, TrainConfig
from trainer_classification.inference.evaluated_dataset import DataOptions
from trainer_classification.inference.split_logits import choose_view
from trainer_classification.loaders.pixel_boxes import pixel_boxes
from trainer_classification.models import build
from trainer_classification.outputs import model_card
from trainer_classification.plan import central_boxes, describe_view, identity
from trainer_classification.recipes import RECIPES, SPEED_RECIPES, apply_options, recipe_for
from trainer_classification.training.resolve import complete_recipe


@given(
    sizes=st.lists(st.tuples(st.integers(1, 9000), st.integers(1, 9000)), min_size=1, max_size=8),
    fraction=st.floats(0.001, 1.0),
)
@settings(max_examples=200, deadline=None)
def test_boxes_are_central_squares_of_whole_pixels_within_the_image(sizes, fraction):
    sizes = np.array(sizes, np.int32)
    boxes = central_boxes(sizes, fraction)
    pixels = boxes.astype(np.float64) * np.tile(sizes, 2)
    x, y, w, h = np.rint(pixels).T
    assert boxes.dtype == np.float32
    assert np.abs(pixels - np.rint(pixels)).max() < 2e-3
    assert np.array_equal(w, h)
    assert (np.abs(w - np.maximum(1, fraction * sizes.min(axis=1))) <= 0.5).all()
    for start, side, length in ((x, w, sizes[:, 0]), (y, h, sizes[:, 1])):
        rest = length - start - side
        assert (start >= 0).all()
        assert ((rest - start == 0) | (rest - start == 1)).all()  # as much on either side
    assert np.array_equal(pixel_boxes(boxes, sizes), np.rint(pixels).astype(int))


def test_the_golden_box_of_a_photograph():
    """Golden: 0.9375 of 225 px are 211 px."""
    boxes = central_boxes(np.array([[300, 225]], np.int32), 0.9375)
    assert pixel_boxes(boxes, np.array([[300, 225]])).tolist() == [[44, 7, 211, 211]]


def test_a_view_changes_the_box_alone():
    boxes = central_boxes(np.array([[300, 225]] * 3), 0.875)
    draws = identity(3, boxes)
    assert draws.box is boxes
    assert not draws.flip.any()
    assert not draws.shift.any()
    assert identity(3).box.tolist() == [[0, 0, 1, 1]] * 3


def test_photographs_are_seen_as_a_central_square_and_small_images_whole():
    assert {name: recipe.eval_crop > 0 for name, recipe in RECIPES.items()} == {
        **dict.fromkeys(("mnist", "cifar10", "cifar100"), False),
        **dict.fromkeys(("caltech-101", "caltech-256"), True),
    }
    assert SPEED_RECIPES["caltech-101"].eval_crop == RECIPES["caltech-101"].eval_crop
    assert recipe_for("own", 128, 3, 500, resized=True)[0].eval_crop == RECIPES["caltech-101"].eval_crop
    assert recipe_for("own", 32, 3, 500, resized=False)[0].eval_crop == 0


@pytest.mark.parametrize(("option", "found"), [(-1.0, 0.9375), (0.0, 0.0), (0.8, 0.8), (1.0, 1.0)])
def test_the_option_replaces_the_recipes_view(option, found):
    recipe = dataclasses.replace(RECIPES["caltech-101"], eval_crop=0.9375)
    assert apply_options(TrainConfig(eval_crop=option), recipe).eval_crop == found


@pytest.mark.parametrize("config", [TrainConfig, EvaluateConfig])
@pytest.mark.parametrize("value", [1.01, -2.0, float("nan")])
def test_a_fraction_above_one_is_refused(config, value):
    with pytest.raises(ValueError, match="--eval-crop is"):
        config(eval_crop=value)


def completed(config, start, resized=True):
    manifest = SimpleNamespace(
        dataset="caltech-101",
        train_size=64,
        channels=3,
        image_size=80,
        resized=resized,
        splits={"train": SimpleNamespace(count=400)},
        fingerprint="f",
        mirrored_classes=[],
    )
    resolved = SimpleNamespace(
        recipe_kind="standard",
        network="auto",
        start=SimpleNamespace(meta=start, kind="new"),
        freezes=False,
        feature_side=0,
    )
    return complete_recipe(config, resolved, manifest)[0].eval_crop


def test_a_run_that_continues_keeps_its_view_unless_told_otherwise():
    default = RECIPES["caltech-101"].eval_crop
    older = meta_of()  # of a version whose evaluation saw the whole image
    assert older.recipe.eval_crop == 0
    assert completed(TrainConfig(), None) == default
    assert completed(TrainConfig(), older) == 0
    assert completed(TrainConfig(eval_crop=0.8), older) == 0.8
    assert completed(TrainConfig(), dataclasses.replace(older, fingerprint="of other images")) == default


def test_images_that_keep_their_size_are_seen_whole_and_the_recipe_says_so():
    assert completed(TrainConfig(eval_crop=0.8), None, resized=False) == 0


def test_model_and_archive_keep_the_view(tmp_path):
    meta = meta_of(class_names="abc")
    meta = dataclasses.replace(meta, recipe=dataclasses.replace(meta.recipe, eval_crop=0.875))
    weights = build("resnet-small", 3, 3, 28, 8).state_dict()
    checkpoint.save(tmp_path / "model.pth", {"model": weights}, meta)
    assert load_model(tmp_path / "model.pth").eval_crop == 0.875

    path = archive.write(tmp_path, tmp_path / "model.pth", weights, meta, "task")
    with zipfile.ZipFile(path) as file:
        assert json.loads(file.read(archive.CONFIG))["eval_crop"] == 0.875
    assert load_model(path).eval_crop == 0.875


def test_a_description_without_a_view_means_the_whole_image():
    content = meta_of().to_json()
    del content["recipe"]["eval_crop"]
    assert CheckpointMeta.from_json(content).recipe.eval_crop == 0


@pytest.mark.parametrize(
    ("asked", "resized", "found"), [(-1.0, True, 0.875), (0.0, True, 0.0), (1.0, True, 1.0), (1.0, False, 0.0)]
)
def test_a_model_sees_what_it_was_tested_on_unless_told_otherwise(asked, resized, found):
    options = DataOptions("photos", eval_crop=asked)
    assert choose_view(SimpleNamespace(eval_crop=0.875), options, SimpleNamespace(resized=resized)) == found


def test_the_model_card_says_what_was_seen(tmp_path):
    configuration = {"recipe_model": "resnet18", "recipe_image_size": 128, "recipe_eval_crop": 0.875}
    configuration["start_weights"] = "random weights"
    summary = dict.fromkeys(
        (
            *("dataset", "accuracy_test", "balanced_accuracy_test", "accuracy_validation", "epochs", "seed"),
            *("device", "precision", "manifest_fingerprint", "archive_readers"),
        )
    )
    manifest = SimpleNamespace(channels=3, class_names=["a"], version="1")
    model_card._write_card(SimpleNamespace(model_dir=tmp_path), manifest, configuration, summary)
    assert "test saw the central square of 0.875 of each image's short side" in (tmp_path / "README.md").read_text()
    assert describe_view(0.0) == "the whole image"
