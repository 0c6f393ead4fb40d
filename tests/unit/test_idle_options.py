"""An option without effect says so, and one with effect does not."""

import dataclasses
from types import SimpleNamespace

import pytest

from trainer_classification.config import PrepareConfig, TrainConfig
from trainer_classification.preparation import pipeline
from trainer_classification.recipes import RECIPES
from trainer_classification.training.idle_options import describe_idle_options

PHOTOS = RECIPES["caltech-101"]
SMALL = RECIPES["cifar10"]
DIGITS = RECIPES["mnist"]


def idle(recipe, origin="dataset", own=None, counts=(3, 4), **options):
    names = ("train", "validation", "test")
    splits = {name: SimpleNamespace(origin=origin, per_class=list(counts)) for name in names}
    manifest = SimpleNamespace(splits=splits)
    return " ".join(describe_idle_options(TrainConfig(**options), recipe, own or recipe, manifest))


def test_a_shift_of_photos_has_no_effect():
    assert idle(PHOTOS, shift=4).startswith("--shift 4 has no effect: ")
    assert idle(SMALL, shift=4) == ""
    assert idle(dataclasses.replace(PHOTOS, epochs=3), shift=0) == ""


@pytest.mark.parametrize("name", ["validation", "test"])
def test_a_fraction_has_no_effect_where_the_dataset_has_the_split(name):
    assert f"--{name}-fraction 0.3 has no effect" in idle(SMALL, **{f"{name}_fraction": 0.3})
    assert idle(SMALL, origin="cut, 30% of train", **{f"{name}_fraction": 0.3}) == ""
    assert idle(SMALL) == ""


def test_images_that_do_not_grow_are_named():
    assert "--progressive 32 has no effect: images have 32 px" in idle(SMALL, progressive=32)
    assert idle(SMALL, progressive=24) == ""


def test_a_flip_that_the_recipe_has_anyway_has_no_effect():
    assert idle(PHOTOS, flip="random") == "--flip random has no effect: the recipe has random flips in any case."
    assert "the recipe has no flips in any case" in idle(DIGITS, flip="none")
    turned_off = dataclasses.replace(PHOTOS, policy=dataclasses.replace(PHOTOS.policy, flip="none"))
    assert idle(turned_off, own=PHOTOS, flip="none") == ""
    assert idle(PHOTOS) == ""
    assert idle(DIGITS) == ""


def test_an_evaluation_view_of_images_at_their_own_size_has_no_effect():
    assert idle(SMALL, eval_crop=0.9).startswith("--eval-crop 0.9 has no effect: ")
    assert idle(SMALL, eval_crop=0) == ""
    assert idle(PHOTOS, eval_crop=0.9) == ""


def test_weights_beside_a_checkpoint_have_no_effect():
    assert "--weights a.pth has no effect" in idle(SMALL, weights="a.pth", resume="last.pth")
    assert idle(SMALL, weights="a.pth") == ""


def test_an_early_stop_has_no_effect_without_validation_or_with_one_epoch():
    assert idle(SMALL, early_stop=3) == ""
    frozen = dataclasses.replace(PHOTOS, freeze="backbone")
    assert "--early-stop 3 has no effect: the head" in idle(frozen, early_stop=3)
    manifest = SimpleNamespace(splits={"train": SimpleNamespace(origin="dataset", per_class=[3, 4])})
    (said,) = describe_idle_options(TrainConfig(early_stop=3), SMALL, SMALL, manifest)
    assert "there are no validation images" in said


def test_weights_of_equal_classes_have_no_effect():
    assert "--class-weights balanced has no effect" in idle(SMALL, counts=(5, 5), class_weights="balanced")
    assert idle(SMALL, class_weights="balanced") == ""
    frozen = dataclasses.replace(PHOTOS, freeze="backbone")
    assert idle(frozen, class_weights="balanced") == ""


def test_options_of_the_beton_have_no_effect_without_one(monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "inspect", lambda _: None)
    monkeypatch.setattr(pipeline, "write", lambda *_: None)
    pipeline.prepare(PrepareConfig(formats="array,tar", beton_side=500, beton_mode="raw"))
    said = capsys.readouterr().err
    assert "--beton-side 500 has no effect" in said
    assert "--beton-mode raw has no effect" in said
    pipeline.prepare(PrepareConfig(beton_side=500))
    assert "no effect" not in capsys.readouterr().err
