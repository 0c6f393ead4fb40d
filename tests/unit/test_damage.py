"""A damaged file of a prepared dataset is one sentence that names it, whichever byte has changed."""

import random
import shutil
from contextlib import suppress

import numpy as np
import pytest

from helpers import encoded, photograph, write_dataset
from trainer_classification.config import PrepareConfig
from trainer_classification.data import array, beton, manifest, table, tar
from trainer_classification.preparation.pipeline import prepare

SIZE = {"width": 40, "height": 40}
TABLES = [name for split in ("train", "test") for name in table.paths(split)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("damage")
    rows = [
        {"data": encoded(photograph(n, 40, 40), "JPEG"), "label": "ab"[n % 2], "split": split} | SIZE
        for n, split in enumerate(["train"] * 8 + ["validation"] * 2 + ["test"] * 4)
    ]
    dataset = write_dataset(root / "dataset", rows, ["a", "b"])
    return prepare(
        PrepareConfig(
            dataset=str(dataset), prepared=str(root / "out"), formats="array,beton,tar", beton_mode="jpg", workers=1
        )
    )


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made.folder, tmp_path / "copy")


def flip(path, place, bits=255):
    """Change bits of a byte; done twice, it is as before."""
    with path.open("r+b", buffering=0) as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ bits]))


def open_all(folder, split):
    content = manifest.read(folder)
    for kind in (array.open_array, beton.open_split, tar.open_split):
        kind(folder, content, split)


@pytest.mark.parametrize("name", TABLES)
def test_every_byte_of_a_table_counts(folder, name):
    path = folder / name
    for place in range(path.stat().st_size):
        flip(path, place, 1 << place % 8)
        with pytest.raises(ValueError, match=rf"{path.name} is damaged .*--force"):
            open_all(folder, path.name.partition(".")[0])
        flip(path, place, 1 << place % 8)
    open_all(folder, path.name.partition(".")[0])


@pytest.mark.parametrize("name", ["train-000000.idx", "train.xxh3"])
def test_every_byte_of_an_index_counts(folder, name):
    path = folder / "tar" / name
    for place in range(path.stat().st_size):
        flip(path, place, 1 << place % 8)
        with pytest.raises(ValueError, match=rf"{path.name} is damaged .*--force"):
            open_all(folder, "train")
        flip(path, place, 1 << place % 8)
    open_all(folder, "train")


def test_checksums_of_more_or_fewer_images_than_a_split_has_are_damaged(folder):
    path = folder / "tar/train.xxh3"
    path.write_bytes(path.read_bytes()[8:])
    content = manifest.read(folder)
    content.files["tar/train.xxh3"] = manifest.file_info(path)
    with pytest.raises(ValueError, match=r"train\.xxh3 is damaged \(7 checksums\)"):
        tar.open_split(folder, content, "train")


def test_every_byte_of_a_manifest_counts(folder):
    path = folder / "manifest.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        flip(path, place, 1 << place % 8)
        with pytest.raises(ValueError, match=r"manifest\.json (is damaged|has format version) .*--force"):
            manifest.read(folder)
        assert manifest.is_prepared(folder)
        path.write_bytes(whole)
    manifest.read(folder)


@pytest.mark.parametrize("with_checksum", [True, False])
def test_a_manifest_that_is_cut_or_lacks_a_field_is_damaged(folder, with_checksum):
    path = folder / "manifest.json"
    if not with_checksum:
        (folder / "manifest.sha256").unlink()
    for content in ("", "[]", "{", path.read_text()[:-50], path.read_text().replace('"splits"', '"slits"', 1)):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"manifest\.json (is damaged|has format version None).*--force"):
            manifest.read(folder)


def index_places(path):
    """The places of a beton's head and allocation table that are not padding of the field descriptors."""
    data, head, table_offset = beton._find_index(path)
    samples = range(beton._FIELDS_END, head)
    return [*range(24), *samples, *range(table_offset, len(data))]


def test_every_byte_of_a_betons_index_counts(folder):
    path = folder / "beton/train.beton"
    content = manifest.read(folder)
    for place in index_places(path):
        flip(path, place, 1 << place % 8)
        with pytest.raises(ValueError, match=r"train\.beton (is damaged|is cut off|is no beton)"):
            beton.open_split(folder, content, "train")
        flip(path, place, 1 << place % 8)
    beton.open_split(folder, content, "train")


def test_images_of_a_beton_without_a_checksum_lie_within_it_whatever_it_says(folder):
    path = folder / "beton/train.beton"
    size = path.stat().st_size
    random_places = random.Random(0).sample(index_places(path), 400)
    for place in random_places:
        flip(path, place)
        with suppress(ValueError):
            store = beton.open_beton(path)
            assert (store.offsets >= 0).all()
            assert (store.offsets + store.sizes <= size).all()
            assert np.isin(store.modes, (beton.JPEG, beton.RAW)).all()
        flip(path, place)


def test_a_table_that_agrees_with_its_checksum_is_checked_all_the_same(folder, monkeypatch):
    """As on a machine without xxhash."""
    monkeypatch.setattr(manifest, "find_spec", lambda name: None)
    content = manifest.read(folder)
    path = folder / "table/train.labels.npy"
    whole = path.read_bytes()
    for place in range(0, len(whole)):
        flip(path, place)
        with suppress(ValueError):
            found = table.open_table(folder, content, "train").labels
            assert set(found.tolist()) <= {-1, 0, 1}
        path.write_bytes(whole)


def test_a_damaged_dataset_is_prepared_again_by_force(made, tmp_path):
    out = shutil.copytree(made.folder.parent, tmp_path / "out")
    flip(out / made.folder.name / "manifest.json", 40)
    config = PrepareConfig(dataset=made.manifest.root, prepared=str(out), formats="array", workers=1)
    again = prepare(config)
    assert again.folder == out / made.folder.name
    manifest.verify(again.folder, again.manifest)
