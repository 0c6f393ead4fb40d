"""Classes that mirror into each other are found, others are not, and flips are off for them."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from helpers import encoded, write_dataset
from trainer_classification.config import PrepareConfig, TrainConfig
from trainer_classification.data import manifest
from trainer_classification.data.decode import make_thumbnail
from trainer_classification.plan import Policy
from trainer_classification.preparation import build, mirrored_classes
from trainer_classification.preparation.mirrored_classes import (
    MAX_IMAGES,
    SIDE,
    choose_compared,
    find_mirrored_classes,
)
from trainer_classification.preparation.pipeline import prepare
from trainer_classification.recipes import describe_augmentation
from trainer_classification.training.resolve import PreparedDataset, complete_recipe, resolve

ARROW = [(6, 12), (18, 12), (18, 6), (27, 16), (18, 26), (18, 20), (6, 20)]
SHAPES = {
    "right": ARROW,
    "left": [(31 - x, y) for x, y in ARROW],
    "up": [(y, 31 - x) for x, y in ARROW],
    "down": [(y, x) for x, y in ARROW],
    "L": [(9, 5), (14, 5), (14, 21), (24, 21), (24, 27), (9, 27)],
    "flag": [(9, 4), (25, 4), (25, 14), (13, 14), (13, 28), (9, 28)],
    "disk": [(16 + 9 * np.cos(t), 16 + 9 * np.sin(t)) for t in np.linspace(0, 6.2, 24)],
    "club": [(5, 10), (26, 14), (26, 18), (5, 22)],
    "square": [(8, 8), (24, 8), (24, 24), (8, 24)],
}


def picture(shape, seed, side=32, jitter=3, noise=25, channels=3):
    """A shape of one color on another, at a place of its own: uint8 [side, side, channels]."""
    random = np.random.default_rng(seed)
    background, color = random.integers(0, 256, 3), random.integers(0, 256, 3)
    while abs(int(background.sum()) - int(color.sum())) < 100:
        color = random.integers(0, 256, 3)
    shift = random.integers(-jitter, jitter + 1, 2)
    scale = side / 32
    image = Image.new("RGB", (side, side), tuple(background.tolist()))
    points = [((x + shift[0]) * scale, (y + shift[1]) * scale) for x, y in SHAPES[shape]]
    ImageDraw.Draw(image).polygon(points, tuple(color.tolist()))
    pixels = np.asarray(image) + random.normal(0, noise, (side, side, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)[:, :, :channels]


def found(counts, **options):
    """The pairs among classes of so many images each."""
    names = list(counts)
    labels = np.repeat(np.arange(len(names)), list(counts.values()))
    pictures = [picture(names[label], seed, **options) for seed, label in enumerate(labels)]
    return find_mirrored_classes(np.stack([make_thumbnail(pixels, SIDE) for pixels in pictures]), labels, names)


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (150, {"jitter": 2}),
        (60, {"jitter": 5}),
        (60, {"noise": 60}),
        (20, {}),
        (40, {"side": 12}),
        (40, {"side": 80, "channels": 1}),
    ],
)
def test_arrows_to_the_left_and_the_right_are_found(count, options):
    assert found({"left": count, "right": count}, **options) == [["left", "right"]]


def test_the_pair_is_found_among_other_classes_of_other_sizes():
    counts = {"up": 40, "right": 90, "disk": 40, "flag": 40, "left": 25, "down": 40}
    assert found(counts) == [["right", "left"]]


@pytest.mark.parametrize(
    "names", [("up", "down"), ("disk", "square"), ("L", "flag"), ("L", "disk"), ("right", "up"), ("right", "flag")]
)
def test_shapes_of_which_none_mirrors_into_another_are_no_pair(names):
    assert found(dict.fromkeys(names, 60)) == []


def test_shapes_that_only_resemble_the_mirror_images_are_no_pair(monkeypatch):
    """As MNIST's 3 and 5: of two classes one must be the nearest."""
    counts = {"right": 60, "club": 60}
    assert found(counts, jitter=1) == []
    monkeypatch.setattr(mirrored_classes, "_MIN_LIKENESS", 0.0)
    assert found(counts, jitter=1), "the nearest ones alone make a pair"


@pytest.mark.parametrize("counts", [{}, {"left": 1}, {"left": 3, "right": 3}, {"left": 40}, {"left": 40, "right": 2}])
def test_of_few_images_nothing_is_claimed(counts):
    assert found(counts) == [] if counts else find_mirrored_classes(np.zeros((0, 16, 16), np.uint8), [], []) == []


def test_images_of_one_color_are_no_pair():
    assert find_mirrored_classes(np.full((40, 16, 16), 7, np.uint8), np.arange(40) % 2, ["a", "b"]) == []


def source_of(labels, classes):
    return SimpleNamespace(labels=np.array(labels), class_names=[*map(str, range(classes))])


def test_the_compared_images_are_bounded_spread_and_as_many_of_each_class():
    labels = np.repeat([0, 1, 2], [9000, 30, 600])
    measured = np.ones(len(labels), bool)
    measured[:100] = False
    compared = choose_compared(source_of(labels, 3), measured)
    assert np.bincount(labels[compared]).tolist() == [MAX_IMAGES // 3, 30, 600]
    assert not compared[:100].any()
    assert np.diff(np.flatnonzero(compared[:9000])).max() < 30
    many = choose_compared(source_of(np.arange(3 * MAX_IMAGES), 3 * MAX_IMAGES), np.ones(3 * MAX_IMAGES, bool))
    assert many.sum() <= MAX_IMAGES


def dataset_of(folder, names, count=24, side=32, name="signs"):
    data = [
        {"data": encoded(picture(label, i, side)), "label": label, "split": "train", "width": side, "height": side}
        for i, label in enumerate(names * count)
    ]
    return write_dataset(folder, data, list(names), name)


@pytest.fixture
def arrows(tmp_path, monkeypatch):
    monkeypatch.delenv("HAFNIA_CLOUD", raising=False)

    def make(name="signs", names=("left", "right", "disk"), **options):
        dataset = dataset_of(tmp_path / name, names, name=name, **options)
        return PrepareConfig(dataset=str(dataset), prepared=str(tmp_path / "out"), workers=1)

    return make


@pytest.mark.parametrize(("side", "formats"), [(32, "array"), (80, "array"), (80, "beton"), (80, "tar")])
def test_prepare_notes_the_pair_whatever_it_writes(arrows, capsys, side, formats):
    config = dataclasses.replace(arrows(side=side), formats=formats)
    made = prepare(config)
    assert made.manifest.mirrored_classes == [["left", "right"]]
    for _ in range(2):
        assert "(left and right), so training flips no images by default; --flip random" in capsys.readouterr().err
        assert prepare(config).manifest == made.manifest


def test_of_other_classes_prepare_says_nothing(arrows, capsys):
    assert prepare(arrows(names=("up", "disk"))).manifest.mirrored_classes == []
    assert "flip" not in capsys.readouterr().err


def test_only_training_images_are_compared_and_none_that_is_bad(arrows, monkeypatch):
    compared = []

    def find(thumbnails, labels, _):
        assert thumbnails.reshape(len(labels), -1).std(1).all(), "a bad image has a blank thumbnail"
        compared.append(len(labels))
        return []

    monkeypatch.setattr(build, "find_mirrored_classes", find)
    config = dataclasses.replace(arrows(), on_bad_image="skip")
    for number in range(3):
        (Path(config.dataset) / f"data/{number:05d}.png").write_bytes(b"")
    splits = prepare(config).manifest.splits
    assert set(splits) == {"train", "validation", "test"}
    assert compared == [splits["train"].count]


def test_a_manifest_from_before_opens_without_pairs(arrows):
    made = prepare(arrows(names=("up", "disk"), count=5))
    path = made.folder / manifest.FILE_NAME
    content = json.loads(path.read_text())
    del content["mirrored_classes"]
    path.write_text(json.dumps(content))
    (made.folder / "manifest.sha256").unlink()  # there was none before
    assert manifest.read(made.folder) == made.manifest


@pytest.mark.parametrize(
    ("name", "usual"), [("signs", "random"), ("cifar10", "alternating"), ("caltech-101", "random")]
)
def test_the_recipe_flips_only_where_it_is_asked_to(arrows, name, usual):
    made = prepare(arrows(name)).manifest
    assert policy_of(dataclasses.replace(made, mirrored_classes=[])).flip == usual
    assert policy_of(made).flip == "none"
    assert policy_of(made, flip="random").flip == "random"


def policy_of(of, **options) -> Policy:
    config = TrainConfig(device="cpu", **options)
    return complete_recipe(config, resolve(config, PreparedDataset(of), prepared=("array",)), of)[0].policy


def test_the_recipes_line_says_why_and_how_to_flip():
    pairs = [["left", "right"]]
    assert describe_augmentation(Policy(flip="none"), pairs).startswith(
        "no flips, because classes mirror into each other (left and right); --flip random turns them on"
    )
    assert "although classes mirror into each other" in describe_augmentation(Policy(flip="random"), pairs)
    assert "mirror" not in describe_augmentation(Policy(flip="none"), [])
    many = describe_augmentation(Policy(flip="none"), [[f"{i}", f"{i}x"] for i in range(9)])
    assert "3 and 3x, ...)" in many
