"""A manifest says what it was written to say, and nothing that does not fit is taken from it."""

import dataclasses
import json

import pytest

from trainer_classification.data import manifest
from trainer_classification.data.manifest import FileInfo, Manifest, SplitInfo

LARGEST = 1 << 16
CONTENT = {"table/train.labels.npy": b"labels", "array/train.images.bin": b"twelve bytes", "tar/train-0.tar": b"tar"}


def made(folder, **changes):
    """Write files and their manifest."""
    for name, content in CONTENT.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    values = {
        "dataset": "tiny",
        "version": "1",
        "task": "",
        "root": "",
        "formats": {"array": {}},
        "class_names": ["a", "b"],
        "splits": {"train": SplitInfo(3, "dataset", [1, 2]), "test_unlabeled": SplitInfo(0, "dataset", [0, 0])},
        "channels": 1,
        "image_size": 2,
        "train_size": 2,
        "resized": False,
        "layout": "HWC",
        "mean": [0.5],
        "std": [0.5],
        "files": {name: manifest.file_info(folder / name) for name in CONTENT},
        "skipped": [],
        "unlabelled": 0,
        "duplicates": [],
        "options": {},
        "fingerprint": "f",
    }
    written = Manifest(**values | changes)
    written.write(folder)
    return written


def change(folder, **changes):
    """Change fields of a manifest that has no checksum."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    (folder / "manifest.sha256").unlink(missing_ok=True)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"channels": 3, "mean": [0.1] * 3, "std": [0.2] * 3},
        {"image_size": LARGEST, "train_size": LARGEST},
        {"image_size": 1, "train_size": 1},
        {"options": {"gray_shift": 0}},
        {"options": {"gray_shift": 32}},
    ],
)
def test_what_is_written_is_read(tmp_path, changes):
    written = made(tmp_path, **changes)
    assert manifest.read(tmp_path) == written
    assert written.image_bytes == written.image_size**2 * written.channels


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": 2, "mean": [0.1] * 2, "std": [0.2] * 2},
        {"channels": 0, "mean": [], "std": []},
        {"image_size": 0},
        {"image_size": LARGEST + 1},
        {"train_size": 0},
        {"train_size": LARGEST + 1},
        {"mean": [0.1, 0.2]},
        {"std": []},
        {"splits": {"train": SplitInfo(-1, "dataset", [1, 2])}},
        {"splits": {"train": SplitInfo(1, "dataset", [1])}},
        {"options": {"gray_shift": 33}},
        {"options": {"gray_shift": -1}},
    ],
)
def test_numbers_that_do_not_fit_are_damage(tmp_path, changes):
    made(tmp_path, **changes)
    with pytest.raises(ValueError, match=rf"manifest.json is damaged .*{next(iter(changes))} is .*--force"):
        manifest.read(tmp_path)


def test_another_version_is_named_and_not_damage(tmp_path):
    made(tmp_path)
    change(tmp_path, format_version=manifest.FORMAT_VERSION - 1)
    with pytest.raises(ValueError, match=r"has format version 2, and this program reads 3: prepare"):
        manifest.read(tmp_path)


def test_a_manifest_differs_from_its_checksum_by_any_change_and_may_have_none(tmp_path):
    written = made(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(ValueError, match=r"damaged .*differs from manifest.sha256"):
        manifest.read(tmp_path)
    (tmp_path / "manifest.sha256").unlink()
    assert manifest.read(tmp_path) == written


def test_a_folder_without_a_manifest_is_no_prepared_dataset(tmp_path):
    with pytest.raises(ValueError, match=r"holds no prepared dataset"):
        manifest.read(tmp_path)
    assert manifest.read_matching(tmp_path, "f") is None
    assert not manifest.is_prepared(tmp_path)


def test_it_matches_its_own_fingerprint(tmp_path):
    written = made(tmp_path)
    assert manifest.read_matching(tmp_path, "f") == written
    assert manifest.read_matching(tmp_path, "g") is None


@pytest.mark.parametrize(
    ("content", "digest", "ours"),
    [
        ({"format_version": 1, "fingerprint": ""}, None, True),
        ({"format_version": 1}, None, False),
        ({"fingerprint": ""}, None, False),
        ([], None, False),
        ("damaged", "0  manifest.json\n", True),
        ("damaged", "0  other.json\n", False),
        (None, "0  manifest.json\n", False),
    ],
)
def test_only_a_manifest_of_ours_makes_a_folder_ours_to_replace(tmp_path, content, digest, ours):
    """Prepare deletes such folders."""
    if content is not None:
        text = content if content == "damaged" else json.dumps(content)
        (tmp_path / "manifest.json").write_text(text)
    if digest is not None:
        (tmp_path / "manifest.sha256").write_text(digest)
    assert manifest.is_prepared(tmp_path) == ours
    assert bool(manifest.read_any_version(tmp_path)) == (ours and content != "damaged")


def test_splits_are_told_apart_by_labels(tmp_path):
    written = made(tmp_path)
    assert written.labeled_splits == ["train"]
    assert written.unlabeled_splits == ["test_unlabeled"]


def test_bits_that_gray_images_lost_are_eight_unless_it_says_else(tmp_path):
    assert made(tmp_path).gray_shift == 8
    assert made(tmp_path, options={"gray_shift": 4}).gray_shift == 4


def test_files_have_their_sizes_and_contents(tmp_path):
    written = made(tmp_path)
    manifest.check_files(tmp_path, written, "train", [*CONTENT])
    manifest.check_contents(tmp_path, written, [*CONTENT])
    manifest.verify(tmp_path, written)
    with pytest.raises(ValueError, match=r"has no split 'test'; it has: train, test_unlabeled"):
        manifest.check_files(tmp_path, written, "test", [])
    with pytest.raises(ValueError, match=r"other is damaged \(the manifest lacks it\)"):
        manifest.check_files(tmp_path, written, "train", ["other"])

    name = "array/train.images.bin"
    (tmp_path / name).write_bytes(b"TWELVE bytes")
    manifest.check_files(tmp_path, written, "train", [name])
    for check in (
        lambda: manifest.check_contents(tmp_path, written, [name]),
        lambda: manifest.verify(tmp_path, written),
    ):
        with pytest.raises(ValueError, match=r"images.bin is damaged \(its content is not what was written\).*tiny"):
            check()
    (tmp_path / name).write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"3 bytes instead of 12"):
        manifest.check_files(tmp_path, written, "train", [name])
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=r"None bytes instead of 12"):
        manifest.check_files(tmp_path, written, "train", [name])
    with pytest.raises(ValueError, match=r"images.bin is damaged \(it is missing\)"):
        manifest.verify(tmp_path, written)


def test_the_checksum_of_an_index_is_no_part_of_what_files_are_compared_by():
    assert FileInfo(1, "a", "b") == FileInfo(1, "a")
    assert FileInfo(1, "a") != FileInfo(1, "b")


def test_a_format_that_is_not_there_is_named_with_those_that_are(tmp_path):
    written = made(tmp_path)
    manifest.check_format(tmp_path, written, "array")
    with pytest.raises(ValueError, match=r"holds array, not tar: .*--dataset tiny --formats tar adds it"):
        manifest.check_format(tmp_path, written, "tar")
    with pytest.raises(ValueError, match=r"holds no format, not tar"):
        manifest.check_format(tmp_path, dataclasses.replace(written, formats={}), "tar")


def test_the_largest_format_is_found_by_the_sum_of_its_files(tmp_path):
    files = {"array/a": {"bytes": 5}, "tar/a": {"bytes": 3}, "tar/b": {"bytes": 4}}
    assert manifest.largest_format(json.dumps({"files": files}).encode()) == 7
    assert manifest.largest_format(b"damaged") == 0
    assert manifest.largest_format(b"[]") == 0


def test_files_of_a_mirror_are_fetched_whole_unless_they_are_read_on_demand(tmp_path, monkeypatch):
    written = made(tmp_path)
    fetched = []
    monkeypatch.setattr(manifest.mirror, "is_mirror", lambda folder: folder == tmp_path)
    monkeypatch.setattr(manifest.mirror, "bring", lambda *arguments: fetched.append(arguments))
    name = "array/train.images.bin"
    files = {name: (12, written.files[name].xxh3)}
    manifest.check_files(tmp_path, written, "train", [name])
    manifest.check_files(tmp_path, written, "train", [name], on_demand=True)
    manifest.bring_files(tmp_path, written, [name, "other"])
    assert fetched == [(tmp_path, files, on_demand) for on_demand in (False, True, False)]
