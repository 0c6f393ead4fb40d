"""An image that is replaced by another of its size is noticed, though the fingerprint is the same."""

import os

import numpy as np
import pytest

from helpers import encoded, noise, rows, tree, write_dataset
from trainer_classification.config import PrepareConfig
from trainer_classification.preparation import build, job, partial, recall, reuse
from trainer_classification.preparation.inspect import inspect
from trainer_classification.preparation.pipeline import prepare

YEAR_2001 = (10**18, 10**18)


@pytest.fixture(autouse=True)
def _settled(monkeypatch):
    monkeypatch.setattr(reuse, "_SETTLED_NS", 0)  # the files of a test have just been written
    monkeypatch.delenv("HAFNIA_CLOUD", raising=False)


@pytest.fixture
def read(monkeypatch):
    """The names of the files that are read."""
    names = []
    read_file = job.read_file
    monkeypatch.setattr(job, "read_file", lambda path: names.append(os.path.basename(path)) or read_file(path))
    return names


def make_hafnia(folder):
    return write_dataset(folder, rows(12) + rows(6, "test", seed=200), ["a", "b", "c"])


def make_folder(folder):
    for number in range(18):
        path = folder / "abc"[number % 3] / f"{number:02}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(noise(number), "BMP"))
    return folder


def configure(tmp_path, dataset, out="out", **options):
    options = {"formats": "array", "workers": 1} | options
    return PrepareConfig(dataset=str(dataset), prepared=str(tmp_path / out), **options)


def images_of(folder):
    return sorted(path for path in folder.rglob("*") if path.suffix in (".png", ".bmp"))


def replace_in_place(path):
    data = encoded(255 - noise(3), path.suffix[1:].upper())
    path.write_bytes(data + bytes(path.stat().st_size - len(data)))  # what follows the end is not looked at


@pytest.mark.parametrize("make", [make_hafnia, make_folder], ids=["hafnia", "folder"])
def test_an_image_replaced_at_equal_size_is_prepared_again(tmp_path, make, capsys):
    dataset = make(tmp_path / "dataset")
    config = configure(tmp_path, dataset)
    before = prepare(config)
    path = images_of(dataset)[4]
    replace_in_place(path)
    assert not recall.tell_if_prepared(config)
    capsys.readouterr()

    after = prepare(config)

    said = capsys.readouterr().err
    assert f"1 of 18 images have changed since they were prepared: {path.relative_to(dataset)}." in said
    assert "17 of 18 images are as before" in said
    assert (after.folder, after.manifest.fingerprint) == (before.folder, before.manifest.fingerprint)
    assert tree(after.folder) == tree(prepare(configure(tmp_path, dataset, "fresh")).folder)
    assert after.manifest.files != before.manifest.files
    prepare(config)
    assert "prepared already" in capsys.readouterr().err


def test_a_format_that_is_added_does_not_mix_old_and_new_images(tmp_path):
    dataset = make_hafnia(tmp_path / "dataset")
    prepare(configure(tmp_path, dataset))
    replace_in_place(images_of(dataset)[4])

    made = prepare(configure(tmp_path, dataset, formats="beton"))

    assert list(made.manifest.formats) == ["beton"]
    assert tree(made.folder) == tree(prepare(configure(tmp_path, dataset, "fresh", formats="beton")).folder)


@pytest.mark.parametrize("make", [make_hafnia, make_folder], ids=["hafnia", "folder"])
def test_files_with_other_times_and_the_same_content_are_read_once(tmp_path, make, read, capsys):
    dataset = make(tmp_path / "dataset")
    config = configure(tmp_path, dataset)
    prepare(config)
    for path in images_of(dataset)[:3]:
        os.utime(path, ns=YEAR_2001)
    for expected in (images_of(dataset)[:3], []):
        del read[:]
        capsys.readouterr()
        prepare(config)
        assert read == [path.name for path in expected]
        assert "prepared already" in capsys.readouterr().err
    if make is make_hafnia:
        assert recall.tell_if_prepared(config)


def test_files_that_had_just_been_written_when_they_were_prepared_are_read_once_more(tmp_path, monkeypatch, read):
    """They may have changed again within the same tick of the clock."""
    dataset = make_folder(tmp_path / "dataset")
    config = configure(tmp_path, dataset)
    monkeypatch.setattr(reuse, "_SETTLED_NS", 3600 * 10**9)
    prepare(config)
    path = images_of(dataset)[4]
    times = path.stat()
    replace_in_place(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    made = prepare(config)
    assert tree(made.folder) == tree(prepare(configure(tmp_path, dataset, "fresh")).folder)

    monkeypatch.setattr(reuse, "_SETTLED_NS", 0)
    for expected in (18, 0):
        del read[:]
        prepare(config)
        assert len(read) == expected


def test_a_clock_that_is_behind_the_files_costs_nothing(tmp_path, monkeypatch, read):
    monkeypatch.setattr(reuse, "_SETTLED_NS", 2 * 10**9)
    dataset = make_folder(tmp_path / "dataset")
    for path in images_of(dataset):
        os.utime(path, ns=(4 * 10**18, 4 * 10**18))
    monkeypatch.setattr(reuse.time, "time_ns", lambda: 10**18)
    config = configure(tmp_path, dataset)
    prepare(config)
    del read[:]
    prepare(config)
    assert read == []


@pytest.mark.parametrize("reason", ["no notes", "damaged notes", "a disk that cannot be written"])
def test_what_cannot_be_told_is_as_it_was(tmp_path, monkeypatch, reason, read):
    dataset = make_folder(tmp_path / "dataset")
    config = configure(tmp_path, dataset)
    made = prepare(config)
    notes = partial.notes_path(made.folder)
    if reason == "no notes":
        notes.unlink()
    elif reason == "damaged notes":
        notes.write_bytes(notes.read_bytes()[:-50])
    else:
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    os.utime(images_of(dataset)[0], ns=YEAR_2001)
    del read[:]
    assert prepare(config) == made
    assert read == []


def test_notes_of_older_versions_are_compared_file_by_file(tmp_path, read):
    dataset = make_folder(tmp_path / "dataset")
    config = configure(tmp_path, dataset)
    made = prepare(config)
    path = partial.notes_path(made.folder)
    with np.load(path) as content:
        older = {name: content[name] for name in content.files if name != "seen"}
    np.savez(path, **older)
    del read[:]
    prepare(config)
    assert read == []
    assert reuse.read_times(made.folder) == reuse.hash_times(inspect(config).source)


def test_notes_that_other_versions_of_the_decoders_left_tell_it_too(tmp_path, monkeypatch):
    dataset = make_folder(tmp_path / "dataset")
    config = configure(tmp_path, dataset)
    prepare(config)
    monkeypatch.setattr(reuse, "version", lambda name: "99")
    os.utime(images_of(dataset)[0], ns=YEAR_2001)
    made = prepare(config)
    assert reuse.read_notes(made.folder) is None  # still of the others
    replace_in_place(images_of(dataset)[4])
    assert prepare(config).manifest != made.manifest


def test_a_bad_image_that_was_repaired_at_equal_size_is_prepared(tmp_path):
    dataset = make_folder(tmp_path / "dataset")
    path = images_of(dataset)[4]
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)))
    config = configure(tmp_path, dataset, on_bad_image="skip")
    before = prepare(config)
    assert len(before.manifest.skipped) == 1
    assert prepare(config) == before
    path.write_bytes(whole)
    later = partial.notes_path(before.folder).stat().st_mtime_ns + 1
    os.utime(path, ns=(later, later))
    assert not prepare(config).manifest.skipped


def test_an_interrupted_prepare_does_not_go_on_with_images_that_were_replaced(tmp_path, monkeypatch):
    dataset = make_folder(tmp_path / "dataset")
    config = configure(tmp_path, dataset)

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "_cut_splits", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(config)
    replace_in_place(images_of(dataset)[4])
    assert tree(prepare(config).folder) == tree(prepare(configure(tmp_path, dataset, "fresh")).folder)
