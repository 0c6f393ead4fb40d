"""Photos added to a folder: what has not changed is copied, and the result is that of a fresh prepare."""

import dataclasses
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import xxhash
from PIL import Image

from helpers import encoded, noise, photograph, tree
from trainer_classification.config import PrepareConfig
from trainer_classification.data import manifest
from trainer_classification.preparation import job, partial, reuse
from trainer_classification.preparation.clean import clean
from trainer_classification.preparation.inspect import inspect
from trainer_classification.preparation.pipeline import prepare

ALL = "array,beton,tar"
YEAR_2001 = (10**18, 10**18)


@pytest.fixture(autouse=True)
def _small_jobs(monkeypatch):
    monkeypatch.setattr(job, "IMAGES_PER_JOB", 7)
    monkeypatch.setattr(reuse, "_SETTLED_NS", 0)  # the files of a test have just been written
    monkeypatch.delenv("HAFNIA_CLOUD", raising=False)


@pytest.fixture
def decoded(monkeypatch):
    """The paths of the images that are decoded."""
    paths = []
    process = job._process

    def note(work, number, *rest):
        paths.append(os.path.basename(work.files[number]))
        return process(work, number, *rest)

    monkeypatch.setattr(job, "_process", note)
    return paths


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def jpeg(seed, height=90, width=120, **options):
    return encoded(photograph(seed, height, width), "JPEG", **options)


def make_photos(folder, count=24):
    """Two classes: JPEGs, gray ones and a turned one among them, PNGs, and a GIF, which no shard keeps as it is."""
    for number in range(count):
        suffix = ".png" if number % 5 == 3 else ".jpg"
        data = jpeg(number)
        if suffix == ".png":
            data = encoded(photograph(number, 80, 100))
        elif number % 5 == 1:
            data = encoded(photograph(number, 90, 70, 1)[:, :, 0], "JPEG")
        write(folder / "ab"[number % 2] / f"{number:03d}{suffix}", data)
    turned = Image.Exif()
    turned[0x0112] = 6
    write(folder / "a/turned.jpg", jpeg(900, exif=turned))
    write(folder / "b/still.gif", encoded(photograph(901, 80, 80)[:, :, 0], "GIF"))
    return folder


def make_icons(folder, count=24):
    """Small images of several sizes, which are padded, in two classes."""
    for number in range(count):
        pixels = noise(number, 20 + number % 3, 24 - number % 4, 3)
        write(folder / "ab"[number % 2] / f"{number:03d}.png", encoded(pixels))
    return folder


def prepared(folder, out, **options):
    options = {"workers": 1, "formats": ALL, "image_size": 0} | options
    return prepare(PrepareConfig(dataset=str(folder), prepared=str(out), **options)).folder


def add(folder):
    write(folder / "a/000-new.jpg", jpeg(500))
    write(folder / "c/new.png", encoded(photograph(501, 70, 90)))


def remove(folder):
    (folder / "a/000.jpg").unlink(missing_ok=True)
    (folder / "b/003.png").unlink()


def move(folder):
    """Into another class, and to another name."""
    (folder / "a/004.jpg").rename(folder / "b/moved.jpg")
    (folder / "b/005.jpg").rename(folder / "b/zzz.jpg")


def replace(folder):
    """By files of other sizes; the last becomes bad."""
    write(folder / "a/006.jpg", jpeg(600, 70, 90))
    write(folder / "b/009.jpg", b"no image")
    os.utime(folder / "a/006.jpg", ns=YEAR_2001)


def fake_times(folder):
    """One file is replaced by another of its size, with its time of change set back; one more makes a change known."""
    path = folder / "b/003.png"
    before = path.stat()
    data = path.read_bytes()
    pixels = bytearray(data)
    pixels[len(data) // 2] ^= 1  # damaged
    path.write_bytes(pixels)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    write(folder / "a/one-more.jpg", jpeg(700))


@pytest.mark.parametrize("change", [add, remove, move, replace, fake_times], ids=lambda change: change.__name__)
def test_a_grown_folder_has_the_bytes_of_a_fresh_one(tmp_path, change):
    folder = make_photos(tmp_path / "photos")
    options = {"image_size": 48, "on_bad_image": "skip"}
    prepared(folder, tmp_path / "grown", **options)
    change(folder)

    grown = prepared(folder, tmp_path / "grown", **options)

    fresh = prepared(folder, tmp_path / "fresh", **options)
    assert tree(grown) == tree(fresh)


@pytest.mark.parametrize("formats", ["array", "beton", "tar", "tar,array"])
@pytest.mark.parametrize("make", [make_photos, make_icons], ids=["photos", "icons"])
def test_formats_and_small_images(tmp_path, make, formats):
    """Small images are measured without their padding, and lie in part files."""
    folder = make(tmp_path / "photos")
    options = {"formats": formats, "image_size": 48 if make is make_photos else 0}
    prepared(folder, tmp_path / "grown", **options)
    write(folder / "a/000-new.png", encoded(noise(500, 22, 21, 3)))

    grown = prepared(folder, tmp_path / "grown", **options)

    assert tree(grown) == tree(prepared(folder, tmp_path / "fresh", **options))


def test_only_new_and_changed_images_are_decoded(tmp_path, decoded, capsys):
    folder = make_photos(tmp_path / "photos")
    prepared(folder, tmp_path / "out", image_size=48)
    before = len(decoded)
    del decoded[:]
    add(folder)
    move(folder)
    replace(folder)
    os.utime(folder / "a/008.png" if (folder / "a/008.png").exists() else folder / "a/010.jpg")

    prepared(folder, tmp_path / "out", image_size=48, on_bad_image="skip")

    assert sorted(decoded) == ["000-new.jpg", "006.jpg", "009.jpg", "new.png"]
    assert f"{before - 2} of {before + 2} images are as before" in capsys.readouterr().err


def test_files_that_are_as_they_were_are_not_read(tmp_path, monkeypatch):
    folder = make_photos(tmp_path / "photos")
    prepared(folder, tmp_path / "out", image_size=48)
    add(folder)
    read = []
    read_file = job.read_file
    monkeypatch.setattr(job, "read_file", lambda path: read.append(os.path.basename(path)) or read_file(path))

    prepared(folder, tmp_path / "out", image_size=48)

    assert set(read) == {"000-new.jpg", "new.png"}


def test_files_that_had_just_changed_are_read(tmp_path, monkeypatch):
    """They may have changed again within the same tick of the clock."""
    monkeypatch.setattr(reuse, "_SETTLED_NS", 3600 * 10**9)
    folder = make_photos(tmp_path / "photos")
    made = prepared(folder, tmp_path / "out", image_size=48)
    assert not reuse.read_notes(made).files["times"].any()


def test_damaged_shards_are_no_source(tmp_path, decoded):
    folder = make_photos(tmp_path / "photos")
    made = prepared(folder, tmp_path / "out", image_size=48)
    shard = made / "array/train.images.bin"
    content = bytearray(shard.read_bytes())
    content[5] ^= 1
    shard.write_bytes(content)
    del decoded[:]
    add(folder)

    grown = prepared(folder, tmp_path / "out", image_size=48)

    assert len(decoded) == 3
    assert tree(grown) == tree(prepared(folder, tmp_path / "fresh", image_size=48))


@pytest.mark.parametrize("reason", ["force", "options", "format", "version", "notes", "manifest"])
def test_what_is_no_source_of_images(tmp_path, decoded, monkeypatch, reason):
    folder = make_photos(tmp_path / "photos")
    made = prepared(folder, tmp_path / "out", formats="array,beton", image_size=48)
    del decoded[:]
    add(folder)
    options = {"formats": "array,beton", "image_size": 48}
    if reason == "options":
        options |= {"beton_side": 60}
    elif reason == "format":
        options |= {"formats": "array,tar"}
    elif reason == "force":
        options |= {"force": True}
    elif reason == "version":
        monkeypatch.setattr(job, "VERSION", job.VERSION + 1)
    elif reason == "notes":
        notes = partial.notes_path(made)
        notes.write_bytes(notes.read_bytes()[:-100])
    elif reason == "manifest":
        found = manifest.read(made)
        dataclasses.replace(found, mean=[0.0, 0.0, 0.0]).write(made)

    prepared(folder, tmp_path / "out", **options)

    assert len(decoded) == 28


def test_a_format_added_later_is_a_source_too(tmp_path, decoded):
    folder = make_photos(tmp_path / "photos")
    prepared(folder, tmp_path / "out", formats="array", image_size=48)
    prepared(folder, tmp_path / "out", formats="tar", image_size=48)
    del decoded[:]
    add(folder)

    prepared(folder, tmp_path / "out", formats="array,tar", image_size=48)

    assert sorted(decoded) == ["000-new.jpg", "new.png"]


def test_another_dataset_of_the_same_name_is_no_source(tmp_path, decoded):
    for place in ("one", "two"):
        prepared(make_photos(tmp_path / place / "photos"), tmp_path / "out", image_size=48)
    assert len(decoded) == 52


def test_sizes_are_not_read_again(tmp_path, monkeypatch):
    folder = make_photos(tmp_path / "photos")
    made = prepared(folder, tmp_path / "out", image_size=48)
    read = []
    read_size = inspect.__globals__["read_size"]
    monkeypatch.setitem(inspect.__globals__, "read_size", lambda path: read.append(path) or read_size(path))
    add(folder)

    info = inspect(PrepareConfig(dataset=str(folder), prepared=str(tmp_path / "out"), image_size=48))

    assert sorted(map(os.path.basename, read)) == ["000-new.jpg", "new.png"]
    assert info.folder != made
    assert info.sizes.max() == 120


def test_clean_deletes_the_notes_with_the_folder(tmp_path):
    folder = make_photos(tmp_path / "photos")
    made = prepared(folder, tmp_path / "out", image_size=48)
    add(folder)
    kept = prepared(folder, tmp_path / "out", image_size=48)

    clean(PrepareConfig(dataset=str(folder), prepared=str(tmp_path / "out"), image_size=48))

    assert not partial.notes_path(made).exists()
    assert partial.notes_path(kept).is_file()


def test_the_older_folder_is_held_while_it_is_read(tmp_path, monkeypatch):
    """A clean at the same time would delete what the jobs read."""
    folder = make_photos(tmp_path / "photos")
    made = prepared(folder, tmp_path / "out", image_size=48)
    add(folder)
    deleted = []
    run_job = job.run_job

    def clean_meanwhile(one):
        deleted.extend(clean(PrepareConfig(dataset=str(folder), prepared=str(tmp_path / "out"), image_size=48)))
        run_job(one)

    monkeypatch.setattr(job, "run_job", clean_meanwhile)
    prepared(folder, tmp_path / "out", image_size=48)

    assert deleted == []
    assert made.is_dir()


def test_a_folder_that_vanishes_is_decoded_instead(tmp_path, monkeypatch):
    folder = make_photos(tmp_path / "photos")
    made = prepared(folder, tmp_path / "out", image_size=48)
    add(folder)
    run_job = job.run_job

    def delete_before(one):
        shutil.rmtree(made, ignore_errors=True)
        run_job(one)

    monkeypatch.setattr(job, "run_job", delete_before)
    grown = prepared(folder, tmp_path / "out", image_size=48)
    monkeypatch.setattr(job, "run_job", run_job)

    assert tree(grown) == tree(prepared(folder, tmp_path / "fresh", image_size=48))


def test_find_rows():
    before = np.array([b"d", b"b", b"b", b"a"], "S32")
    assert reuse.find_rows(before, np.array([b"a", b"c", b"", b"d", b"zz"], "S32")).tolist() == [3, -1, -1, 0, -1]


def test_notes_lie_beside_the_folder_and_not_in_it(tmp_path):
    made = prepared(make_photos(tmp_path / "photos"), tmp_path / "out", image_size=48)
    assert partial.notes_path(made).parent == made.parent
    assert {path.name for path in Path(made).iterdir()} == {
        *("manifest.json", "manifest.sha256", "table"),
        *ALL.split(","),
    }


def test_notes_have_hashes_in_hex_digits_and_suffixes_as_text(tmp_path):
    """As earlier versions have written them, and read them."""
    photos = make_photos(tmp_path / "photos")
    folder = prepared(photos, tmp_path / "out", formats="tar")
    with np.load(partial.notes_path(folder)) as notes:
        images, fields = notes["images"], notes["fields.tar"]
    paths = [path for path in photos.rglob("*.*") if path.is_file()]
    assert sorted(images["hash"].tolist()) == sorted(
        xxhash.xxh3_128_hexdigest(path.read_bytes()).encode() for path in paths
    )
    assert set(images["content"].tolist()) == {b"JPEG", b"PNG", b"GIF"}
    assert set(fields["suffix"].tolist()) == {".jpg", ".png"}
    assert len(reuse.read_notes(folder).images) == len(paths)


def test_notes_with_what_is_no_hash_are_no_notes(tmp_path):
    folder = prepared(make_photos(tmp_path / "photos"), tmp_path / "out", formats="tar")
    path = partial.notes_path(folder)
    with np.load(path) as notes:
        content = dict(notes)
    content["images"]["hash"][3] = b"no hash"
    with path.open("wb") as file:
        np.savez(file, **content)
    assert reuse.read_notes(folder) is None


@pytest.mark.parametrize("damage", ["method", "encrypted", "cut", "empty", "pickle"])
def test_damaged_notes_are_no_notes(tmp_path, damage):
    folder = prepared(make_photos(tmp_path / "photos"), tmp_path / "out")
    path = partial.notes_path(folder)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\1\2")  # of the archive's directory, which has no checksum
    match damage:
        case "method":
            content[entry + 10] = 99
        case "encrypted":
            content[entry + 8] |= 1
        case "cut":
            del content[len(content) // 2 :]
        case "empty":
            content.clear()
        case "pickle":
            content[:] = pickle.dumps({"head": 1})
    path.write_bytes(content)

    assert reuse.read_notes(folder) is None


def test_notes_of_no_images_are_no_notes(tmp_path):
    photos = make_photos(tmp_path / "photos")
    folder = prepared(photos, tmp_path / "out")
    notes = reuse.read_notes(folder)
    nothing = {name: values[:0] for name, values in notes.checksums.items()}
    fields = {name: values[:0] for name, values in notes.fields.items()}
    reuse.save_notes(folder, reuse.ImageNotes(notes.files[:0], notes.images[:0], nothing, fields))
    add(photos)

    assert tree(prepared(photos, tmp_path / "out")) == tree(prepared(photos, tmp_path / "new"))
