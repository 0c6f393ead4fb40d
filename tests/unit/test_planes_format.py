"""The planes format from prepare to the first layer: the same bytes however made, and damage found."""

import dataclasses
import os
import re

import numpy as np
import pytest
import torch

from helpers import encoded, photograph, tree
from trainer_classification.config import PrepareConfig
from trainer_classification.data import manifest, planes
from trainer_classification.data.array import open_array
from trainer_classification.data.decode import decode, decode_for_resize, plain_jpeg
from trainer_classification.data.table import open_table
from trainer_classification.models import build
from trainer_classification.plan import Plan, Policy
from trainer_classification.preparation import job, reuse
from trainer_classification.preparation.pipeline import prepare
from trainer_classification.training.initial_weights import whiten_first_layer

SIDE = 84  # of planes; the array's is 80


@pytest.fixture(autouse=True)
def _small_jobs(monkeypatch):
    monkeypatch.setattr(job, "IMAGES_PER_JOB", 7)
    monkeypatch.setattr(reuse, "_SETTLED_NS", 0)  # the files of a test have just been written
    monkeypatch.delenv("HAFNIA_CLOUD", raising=False)


def make_photos(folder, count=20, channels=3):
    """JPEGs of many shapes, one in five gray, and PNGs."""
    for number in range(count):
        pixels = photograph(number, 70 + 9 * number, 120, 1 if number % 5 == 1 else channels)
        is_png = number % 4 == 3
        path = folder / "ab"[number % 2] / f"{number:03d}{'.png' if is_png else '.jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        gray = pixels.squeeze() if pixels.shape[2] == 1 else pixels
        path.write_bytes(encoded(gray) if is_png else encoded(gray, "JPEG"))
    return folder


def run(folder, out, **more):
    options = {"formats": "planes", "image_size": 64, "workers": 1, "test_fraction": 0.3} | more
    return prepare(PrepareConfig(dataset=str(folder), prepared=str(out), **options))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("planes") / "photos")


@pytest.fixture(scope="module")
def made(photos):
    return run(photos, photos.parent / "made", formats="array,planes")


def test_each_image_is_resized_from_its_own_planes(photos, made):
    assert made.manifest.formats["planes"] == {"side": SIDE}
    for split, info in made.manifest.splits.items():
        store = planes.open_planes(made.folder, made.manifest, split)
        files = open_table(made.folder, made.manifest, split).files
        assert store.images.shape == (info.count, SIDE * SIDE * 3 // 2)
        for stored, name in zip(store.images, files, strict=True):
            data = (photos / name).read_bytes()
            expected = decode_for_resize(plain_jpeg(data), data).resize_to_planes(SIDE)
            assert np.array_equal(stored[: len(expected)], expected)
            assert (stored[len(expected) :] == 128).all()
            assert len(expected) == (SIDE * SIDE if decode(data).shape[2] == 1 else len(stored))


def test_the_bytes_depend_on_neither_workers_nor_what_was_there(photos, made, tmp_path):
    """Alone with two workers; and one image more than an older folder, whose images are copied."""
    alone = tree(run(photos, tmp_path / "alone", workers=2).folder)
    both = tree(made.folder)
    names = [name for name in both if name.startswith("planes/")]
    assert len(names) == 3
    assert all(alone[name] == both[name] for name in names)

    grown = make_photos(tmp_path / "grown", 12)
    run(grown, tmp_path / "out")
    make_photos(tmp_path / "grown", 20)
    after = tree(run(grown, tmp_path / "out").folder)
    assert after == tree(run(grown, tmp_path / "fresh").folder)


def test_gray_photographs_have_one_channel(tmp_path):
    made = run(make_photos(tmp_path / "gray", 10, 1), tmp_path / "out", formats="array,planes")
    assert made.manifest.channels == 1
    store = planes.open_planes(made.folder, made.manifest, "train")
    assert (store.images.shape[1:], store.layout) == ((SIDE, SIDE, 1), "WHC")
    assert made.manifest.array_layout.planes_bytes(10) is None


def test_images_that_keep_their_size_are_refused(tmp_path):
    for name in ("a/0.png", "b/1.png"):
        path = tmp_path / "icons" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(encoded(photograph(0, 20, 20)))
    with pytest.raises(ValueError, match=r"--formats planes is for photographs.*--formats array"):
        run(tmp_path / "icons", tmp_path / "out", image_size=0)


def copied(made, tmp_path):
    for name in made.manifest.files:
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((made.folder / name).read_bytes())
    return tmp_path / planes.path("test")


@pytest.mark.parametrize("length", [0, 1, -1])
def test_a_cut_file_is_damaged(made, tmp_path, length):
    path = copied(made, tmp_path)
    os.truncate(path, length % path.stat().st_size)
    with pytest.raises(ValueError, match=r"test\.planes\.bin is damaged.*--force"):
        planes.open_planes(tmp_path, made.manifest, "test")


def test_each_changed_byte_is_found_by_verify(made, tmp_path):
    path = copied(made, tmp_path)
    manifest.verify(tmp_path, made.manifest)
    content = bytearray(path.read_bytes())
    for place in (0, SIDE * SIDE, len(content) - 1):
        content[place] ^= 1
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"test\.planes\.bin is damaged"):
            manifest.verify(tmp_path, made.manifest)
        content[place] ^= 1


@pytest.mark.parametrize("options", [{}, {"side": "84"}, {"side": 0}, {"side": 83}, {"side": 86}, {"side": 8400}])
def test_a_side_that_cannot_be_is_damage(made, options):
    content = dataclasses.replace(made.manifest, formats={"planes": options})
    with pytest.raises(ValueError, match=re.escape("test.planes.bin is damaged")):
        planes.open_planes(made.folder, content, "test")


def test_planes_whiten_a_first_layer_as_the_array_does(made):
    count = made.manifest.splits["train"].count
    plan = Plan(count, 0, Policy(crop="resized"), open_table(made.folder, made.manifest, "train").sizes)
    seen = []
    for open_images in (open_array, planes.open_planes):
        model = build("speednet", 2, 3, 64)
        whiten_first_layer(model, open_images(made.folder, made.manifest, "train"), made.manifest, plan)
        seen.append(model.whiten.weight.detach().abs().mean((1, 2, 3)))
    assert torch.isfinite(seen[1]).all()
    assert (seen[0][:8] / seen[1][:8]).log().abs().max() < 1
