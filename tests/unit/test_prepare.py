"""Prepare: what it writes, what it refuses, and that nothing half-written is taken for whole."""

import dataclasses
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from helpers import encoded, noise, rows, tar_suffix, tree, write_dataset
from trainer_classification.config import PrepareConfig
from trainer_classification.data import array, beton, file_names, hafnia_table, in_use, manifest, source, table, tar
from trainer_classification.data.array import open_array
from trainer_classification.data.decode import decode, decode_checked, is_sound
from trainer_classification.data.file_names import FileNames
from trainer_classification.data.formats import ArrayLayout
from trainer_classification.data.split_names import ALL_SPLITS, NUMBER_OF
from trainer_classification.loaders import torch_dataloader
from trainer_classification.plan import Policy
from trainer_classification.preparation import (
    assemble,
    inspect,
    job,
    job_result,
    partial,
    preallocated,
    problems,
    reuse,
    splits,
    statistics,
    write_tar,
)
from trainer_classification.preparation.content_hash import from_hex
from trainer_classification.preparation.format import PrepareSpec
from trainer_classification.preparation.formats import FORMATS
from trainer_classification.preparation.pipeline import prepare, write
from trainer_classification.preparation.workers import Workers


@pytest.fixture(autouse=True)
def _small_jobs(monkeypatch):
    monkeypatch.setattr(job, "IMAGES_PER_JOB", 7)
    monkeypatch.delenv("HAFNIA_CLOUD", raising=False)


def prepared(tmp_path, data, names=("a", "b"), **options):
    folder = (
        write_dataset(tmp_path / "dataset", data, list(names))
        if not (tmp_path / "dataset").exists()
        else (tmp_path / "dataset")
    )
    options = {"workers": 1} | options
    return prepare(PrepareConfig(dataset=str(folder), prepared=str(tmp_path / "out"), **options))


def three_splits():
    return rows(30) + rows(8, "validation", seed=100) + rows(9, "test", seed=200)


@pytest.mark.parametrize("formats", ["array", "tar"])
def test_rows_that_are_held_some_at_a_time_give_the_bytes_of_all_at_once(tmp_path, monkeypatch, formats):
    data = [*rows(40), *rows(9, "test", seed=10), *rows(3, "test", seed=90, label=None)]  # some are equal
    whole = prepared(tmp_path, data, formats=formats)
    expected = tree(whole.folder)
    with np.load(partial.notes_path(whole.folder)) as notes:
        noted = {name: notes[name] for name in notes.files}

    for module, name in (
        *((module, "_ROWS_AT_ONCE") for module in (hafnia_table, inspect, reuse, assemble, splits, source, write_tar)),
        *((file_names, name) for name in ("_AT_ONCE", "_BYTES_AT_ONCE")),
        *((problems, "_PAIRS_AT_ONCE"), (job, "IMAGES_PER_JOB")),
    ):
        monkeypatch.setattr(module, name, 5)
    again = prepared(tmp_path, None, formats=formats, force=True)
    assert again.manifest.duplicates
    assert tree(again.folder) == expected
    with np.load(partial.notes_path(again.folder)) as notes:
        assert notes.files == list(noted)
        for name in set(noted) - {"files", "seen"}:  # these have times that had just been changed
            np.testing.assert_array_equal(notes[name], noted[name])
        np.testing.assert_array_equal(notes["files"]["name"], noted["files"]["name"])


def test_small_images_keep_their_pixels_and_labels_in_the_order_of_the_table(tmp_path):
    made = prepared(tmp_path, three_splits())
    store = open_array(made.folder, made.manifest, "train")
    assert store.images.shape == (30, 12, 12, 1)
    for i in range(30):
        np.testing.assert_array_equal(store.images[i, :, :, 0], noise(i))
    assert store.labels.tolist() == [i % 2 for i in range(30)]
    assert np.load(made.folder / table.paths("train")[0]).dtype == np.int64  # narrower while they are prepared
    assert store.sizes.tolist() == [[12, 12]] * 30
    assert {name: info.count for name, info in made.manifest.splits.items()} == {
        "train": 30,
        "validation": 8,
        "test": 9,
    }


def test_mean_and_std_are_those_of_the_train_images(tmp_path):
    made = prepared(tmp_path, three_splits())
    images = np.stack([noise(i) for i in range(30)]) / 255
    assert made.manifest.mean == pytest.approx([images.mean()])
    assert made.manifest.std == pytest.approx([images.std()])


def test_one_colour_image_makes_all_three_channels(tmp_path):
    data = three_splits()
    data[11]["data"] = encoded(noise(11, channels=3))
    made = prepared(tmp_path, data)
    store = open_array(made.folder, made.manifest, "train")
    assert store.images.shape[3] == 3
    np.testing.assert_array_equal(store.images[11], noise(11, channels=3))
    for i in (0, 12, 29):
        np.testing.assert_array_equal(store.images[i], np.repeat(noise(i)[:, :, None], 3, 2))
    stack = np.stack([store.images[i] for i in range(30)]) / 255
    assert made.manifest.mean == pytest.approx(stack.mean((0, 1, 2)))
    assert made.manifest.std == pytest.approx(stack.std((0, 1, 2)))


def test_larger_images_are_resized_whole_with_x_first_and_remember_their_size(tmp_path):
    sizes = [(90, 70), (40, 100), (1, 80), (66, 66)]
    data = [
        {"data": encoded(noise(i, h, w, 3)), "label": "ab"[i % 2], "split": split, "width": w, "height": h}
        for i, (h, w) in enumerate(sizes)
        for split in ("train", "validation", "test")
    ]
    made = prepared(tmp_path, data, image_size=32)
    store = open_array(made.folder, made.manifest, "train")
    assert (made.manifest.image_size, made.manifest.train_size, made.manifest.layout) == (40, 32, "WHC")
    assert store.sizes.tolist() == [[w, h] for h, w in sizes]
    down, across = weights(90, 40), weights(70, 40)
    expected = np.einsum("yh,xw,hwc->xyc", down, across, noise(0, 90, 70, 3))
    assert np.abs(store.images[0] - expected).mean() < 0.5


def weights(side, size, width=0.75):
    """Of a triangle filter narrower than Pillow's."""
    scale = side / size
    distance = np.abs(np.arange(side) + 0.5 - (np.arange(size)[:, None] + 0.5) * scale)
    raw = np.maximum(0, 1 - distance / max(1, width * scale))
    return raw / raw.sum(1, keepdims=True)


@pytest.mark.parametrize("workers", [2, 3])
def test_bytes_are_the_same_for_any_number_of_workers(tmp_path, workers):
    data = three_splits()
    data[4]["data"] = b""
    alone = tree(prepared(tmp_path, data, on_bad_image="skip").folder)
    together = prepared(tmp_path, data, on_bad_image="skip", workers=workers, force=True)
    assert tree(together.folder) == alone


def test_a_second_call_finds_it_prepared_and_a_changed_dataset_is_prepared_anew(tmp_path):
    made = prepared(tmp_path, three_splits())
    before = (made.folder / "manifest.json").stat().st_mtime_ns
    assert prepared(tmp_path, None).manifest == made.manifest
    assert (made.folder / "manifest.json").stat().st_mtime_ns == before
    (tmp_path / "dataset/data/00003.png").write_bytes(encoded(noise(77, channels=3)))
    again = prepared(tmp_path, None)
    assert again.manifest.fingerprint != made.manifest.fingerprint
    assert again.manifest.channels == 3


def bad_rows():
    data = three_splits()
    data[3]["data"] = encoded(noise(3))[:-30]
    data[20] |= {"data": b"a text", "suffix": ".jpg"}
    data[33]["data"] = None
    return data


def test_bad_images_are_named_and_never_in_the_shards(tmp_path):
    made = prepared(tmp_path, bad_rows(), on_bad_image="skip")
    reasons = {entry["file"]: entry["reason"] for entry in made.manifest.skipped}
    assert reasons.keys() == {"data/00003.png", "data/00020.jpg", "data/00033.png"}
    assert "cannot be decoded" in reasons["data/00003.png"]
    assert "not an image" in reasons["data/00020.jpg"]
    assert "cannot be read" in reasons["data/00033.png"]
    store = open_array(made.folder, made.manifest, "train")
    good = [i for i in range(30) if i not in (3, 20)]
    for row, i in enumerate(good):
        np.testing.assert_array_equal(store.images[row, :, :, 0], noise(i))
    assert store.labels.tolist() == [i % 2 for i in good]


@pytest.mark.parametrize("policy", ["auto", "fail"])
def test_too_many_bad_images_end_it_with_their_names(tmp_path, policy):
    with pytest.raises(ValueError, match=r"3 of 47 images are bad, .*data/00003\.png.*--on-bad-image skip"):
        prepared(tmp_path, bad_rows(), on_bad_image=policy)
    assert not list((tmp_path / "out").glob("*/manifest.json"))


def test_more_bad_images_than_the_error_names_are_all_listed(tmp_path, capsys):
    data = three_splits()
    for row in range(12):
        data[row]["data"] = b"broken"
    with pytest.raises(ValueError, match="12 of 47 images are bad"):
        prepared(tmp_path, data)
    lines = capsys.readouterr().err
    assert all(f"bad data/{row:05d}.png (train): not an image" in lines for row in range(12))


@pytest.mark.parametrize("policy", ["auto", "skip"])
def test_where_no_image_can_be_used_the_one_reason_is_said_once(tmp_path, capsys, policy):
    data = [row | {"data": encoded(noise(1).astype(np.float32), "TIFF"), "suffix": ".tif"} for row in three_splits()]
    with pytest.raises(
        ValueError, match=r"None of the 47 images.*data/00000\.tif: floating.*as 8 or 16 bits\.$"
    ) as error:
        prepared(tmp_path, data, on_bad_image=policy)
    assert str(error.value).count("floating-point") == 1
    assert "--on-bad-image" not in str(error.value)
    assert "floating-point" not in capsys.readouterr().err


def test_where_no_image_can_be_used_for_several_reasons_none_is_advised_to_be_left_out(tmp_path):
    data = [row | {"data": b"broken" if row["split"] == "test" else b""} for row in three_splits()]
    with pytest.raises(ValueError, match=r"47 of 47 images are bad.* empty file; .* Repair some\.$"):
        prepared(tmp_path, data, on_bad_image="skip")


def test_content_of_another_format_than_the_name_is_used_and_noted(tmp_path, capsys):
    data = three_splits()
    data[20]["suffix"] = ".jpg"
    made = prepared(tmp_path, data)
    store = open_array(made.folder, made.manifest, "train")
    np.testing.assert_array_equal(store.images[20, :, :, 0], noise(20))
    assert "1 files hold another format than their names say (1 PNG), as data/00020.jpg" in capsys.readouterr().err


def test_classes_with_few_training_images_are_counted_after_the_cut(tmp_path, capsys):
    """A class of five keeps three or four in train, one of three two or one."""
    data = rows(60) + [{"data": encoded(noise(500 + n)), "label": "c", "split": "train"} for n in range(3)]
    made = prepared(tmp_path, data, "abc")
    left = made.manifest.splits["train"].per_class[2]
    assert left < 3
    said = f"Note: 1 of 3 classes have 3 training images or fewer: c {left}. What is learned"
    assert said in capsys.readouterr().err
    prepared(tmp_path, data, "abc")
    assert said in capsys.readouterr().err, "also where all is prepared already"


def test_files_of_several_pages_or_frames_are_counted(tmp_path, capsys):
    def several(kind, count, **options):
        file = io.BytesIO()
        first, *others = [Image.fromarray(noise(number)) for number in range(count)]
        first.save(file, kind, **({"save_all": True, "append_images": others} | options if others else options))
        return file.getvalue()

    files = [several(kind, count) for kind in ("TIFF", "GIF", "PNG", "WEBP") for count in (1, 3)]
    assert [decode_checked(file).info.has_more for file in files] == [False, True] * 4
    data = three_splits()
    for row, file in zip(data, files, strict=False):
        row["data"] = file
    prepared(tmp_path, data)
    said = "4 files have several pages or frames (1 GIF, 1 PNG, 1 TIFF, 1 WEBP), as data/00001.png: only the first"
    assert said in capsys.readouterr().err
    data[20]["data"] = encoded(noise(900))
    shutil.rmtree(tmp_path / "dataset")
    prepared(tmp_path, data)
    assert said in capsys.readouterr().err, "also where images are copied from the folder prepared before"


def test_16_bit_images_that_use_few_bits_are_noted(tmp_path, capsys):
    data = three_splits()
    deep = noise(4).astype(np.uint16)
    data[4]["data"] = encoded(deep)
    data[5]["data"] = encoded(deep * 257)
    prepared(tmp_path, data)
    lines = capsys.readouterr().err
    assert f"1 of 2 gray images of 16 or 32 bits have values up to {deep.max()} of 65535 only" in lines
    assert "data/00004.png" in lines


def test_a_dataset_of_16_bit_images_that_use_few_bits_is_shown_by_these(tmp_path, capsys):
    deep = {number: noise(number).astype(np.uint16) * 16 for number in range(20)}  # 12 bits
    data = [{"data": encoded(deep[n]), "label": "ab"[n % 2], "split": "train" if n < 15 else "test"} for n in deep]
    made = prepared(tmp_path, data)
    assert made.manifest.options["gray_shift"] == 4
    assert "values up to 4080: starting again, to show them by 12 bits" in capsys.readouterr().err
    originals = torch_dataloader.Originals(
        made.manifest, table.open_table(made.folder, made.manifest, "train"), Policy(), 12
    )
    images = open_array(made.folder, made.manifest, "train").images
    for row, file in enumerate(originals.files):
        np.testing.assert_array_equal(images[row, :, :, 0], noise(int(file[5:10])))
        np.testing.assert_array_equal(np.asarray(originals._read_image(row)), noise(int(file[5:10])))


run_job = job.run_job  # before it is replaced
process_image = job._process


def run_deadly_job(one):
    """Decode a job in a process that one of its images kills."""

    def process(work, number, *more):
        if work.files[number].endswith("00005.png") and work.files[number] not in work.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return process_image(work, number, *more)

    job._process = process
    try:
        run_job(one)
    finally:
        job._process = process_image


def return_process(_piece):
    return os.getpid()


def test_the_last_job_after_a_kill_does_not_run_in_the_main_process():
    with Workers(2, resized=False) as workers:
        assert workers.run("", return_process, ["a"]) == [os.getpid()]
        assert workers.run("", return_process, ["a"], isolated=True) != [os.getpid()]


def test_an_image_that_kills_its_process_is_bad_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    right = three_splits()
    right[5]["data"] = b"broken"
    right = tree(prepared(tmp_path / "right", right, on_bad_image="skip").folder / "array")
    monkeypatch.setattr(job, "run_job", run_deadly_job)
    made = prepared(tmp_path, three_splits(), on_bad_image="skip", workers=2)
    assert [entry["file"] for entry in made.manifest.skipped] == ["data/00005.png"]
    assert "ends the process" in made.manifest.skipped[0]["reason"]
    assert tree(made.folder / "array") == right
    assert "00005.png, which is left out" in capsys.readouterr().err


def test_an_image_that_kills_its_process_is_named_where_no_bad_image_is_accepted(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "run_job", run_deadly_job)
    with pytest.raises(ValueError, match=r"killed while it decoded [^,]*00005\.png\..*--on-bad-image skip") as error:
        prepared(tmp_path, three_splits(), on_bad_image="fail", workers=2)
    assert "memory" not in str(error.value)


def test_auto_lets_one_percent_pass(tmp_path):
    data = rows(110) + rows(5, "test", seed=500)
    data[50]["data"] = b"broken"
    assert len(prepared(tmp_path, data).manifest.skipped) == 1


def test_an_image_larger_than_the_table_says_is_used_at_the_size_that_it_has(tmp_path, capsys):
    data = three_splits()
    data[1]["data"] = encoded(noise(1, 20, 20))
    made = prepared(tmp_path, data)
    assert (made.manifest.image_size, made.manifest.skipped) == (20, [])
    assert "12x12 instead of 20x20" in " ".join(capsys.readouterr().err.split())


def test_images_of_different_small_sizes_are_padded_to_the_largest(tmp_path):
    data = three_splits()
    data[0] |= {"data": encoded(noise(0, 16, 10)), "width": 10, "height": 16}
    made = prepared(tmp_path, data)
    store = open_array(made.folder, made.manifest, "train")
    assert made.manifest.image_size == 16
    np.testing.assert_array_equal(store.images[0, :, 3:13, 0], noise(0, 16, 10))
    np.testing.assert_array_equal(store.images[1, 2:14, 2:14, 0], noise(1))


def test_equal_images_in_several_splits_are_reported(tmp_path):
    data = three_splits()
    data[45]["data"] = data[2]["data"]
    (entry,) = prepared(tmp_path, data).manifest.duplicates
    assert entry == {"splits": ["test", "train"], "files": ["data/00002.png", "data/00045.png"]}


def test_validation_fraction_0_trains_on_everything_but_test(tmp_path):
    made = prepared(tmp_path, three_splits(), validation_fraction=0.0)
    assert {name: info.count for name, info in made.manifest.splits.items()} == {"train": 38, "test": 9}


def test_a_dataset_without_train_says_so(tmp_path):
    with pytest.raises(ValueError, match="no train split, only test"):
        prepared(tmp_path, rows(5, "test"))


def test_a_killed_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    whole = tree(prepared(tmp_path, three_splits()).folder)
    run_job, done = job.run_job, []

    def dying(one):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(one.stem)
        return run_job(one)

    monkeypatch.setattr(job, "run_job", dying)
    with pytest.raises(KeyboardInterrupt):
        prepared(tmp_path, None, force=True)
    assert tree(target(tmp_path)) == whole  # the old one stays until the new one is whole
    again = []
    monkeypatch.setattr(job, "run_job", lambda one: again.append(one.stem) or run_job(one))
    assert tree(prepared(tmp_path, None, force=True).folder) == whole
    assert not set(again) & set(done)
    assert len(again) + len(done) == 7


def test_reasons_of_finished_jobs_are_kept_when_a_killed_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "IMAGES_PER_JOB", 7)
    expected = prepared(tmp_path, bad_rows(), on_bad_image="skip").manifest.skipped
    run_job, done = job.run_job, []

    def dying(one):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(one.stem)
        run_job(one)

    monkeypatch.setattr(job, "run_job", dying)
    with pytest.raises(KeyboardInterrupt):
        prepared(tmp_path, None, on_bad_image="skip", force=True)
    monkeypatch.setattr(job, "run_job", run_job)
    assert prepared(tmp_path, None, on_bad_image="skip", force=True).manifest.skipped == expected
    assert len({entry["reason"] for entry in expected}) == 3


def test_the_jobs_with_the_most_bytes_come_first(tmp_path, monkeypatch):
    begun, run_job = [], job.run_job
    monkeypatch.setattr(job, "run_job", lambda one: begun.append(one) or run_job(one))
    sides = [12, 12, 40, 12, 60, 12, 12, 30]
    data = [row for number in range(len(sides)) for row in rows(7, seed=7 * number)]
    for number, row in enumerate(data):
        side = sides[number // 7]
        row |= {"data": encoded(noise(number, side, side)), "width": side, "height": side}
    prepared(tmp_path, data)
    heavy = [sum(os.path.getsize(path) for path in one.files) for one in begun]
    assert heavy == sorted(heavy, reverse=True)
    assert [one.stem.name for one in begun[:3]] == ["000004", "000002", "000007"]


def interrupt_writing(patch):
    """Interrupt prepare when all jobs are done and the array is written from them."""

    def interrupt(*_):
        raise KeyboardInterrupt

    patch.setitem(FORMATS, "array", dataclasses.replace(FORMATS["array"], write=interrupt))


def test_parts_of_other_options_are_not_taken_over(tmp_path, monkeypatch):
    interrupt_writing(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        prepared(tmp_path, three_splits())
    monkeypatch.undo()
    monkeypatch.setattr(job, "IMAGES_PER_JOB", 7)
    (tmp_path / "dataset/data/00003.png").write_bytes(encoded(noise(77, channels=3)))
    made = prepared(tmp_path, None)
    np.testing.assert_array_equal(open_array(made.folder, made.manifest, "train").images[3], noise(77, channels=3))


def test_verify_names_a_file_in_which_one_bit_changed(tmp_path):
    made = prepared(tmp_path, three_splits())
    prepared(tmp_path, None, verify=True)
    target = made.folder / "array/train.images.bin"
    content = bytearray(target.read_bytes())
    content[1000] ^= 1
    target.write_bytes(content)
    with pytest.raises(ValueError, match=r"train\.images\.bin is damaged.*--force"):
        prepared(tmp_path, None, verify=True)


def test_too_little_room_is_said_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(ValueError, match=r"needs about [1-9][\d.]* [kM]B .* 1 kB are free.*choose another folder"):
        prepared(tmp_path, three_splits())
    assert not (tmp_path / "out").exists()


def _no_room(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    return {}


def _no_scheduler(tmp_path, monkeypatch):
    def refuse(*_):
        raise ValueError("No Dask scheduler answers")

    monkeypatch.setattr("trainer_classification.preparation.workers.connect", refuse)
    return {"executor": "dask", "executor_address": "tcp://127.0.0.1:9"}


def _folder_of_the_user(tmp_path, monkeypatch):
    place = target(tmp_path)
    place.mkdir(parents=True)
    (place / "precious.txt").write_text("the only copy")
    return {}


REFUSALS = {
    "is for photographs": lambda *_: {"formats": "planes"},
    "needs about": _no_room,
    "No Dask scheduler answers": _no_scheduler,
    "not made by prepare": _folder_of_the_user,
}


@pytest.mark.parametrize("folder", ["", "out", "out/other"])
@pytest.mark.parametrize("message", REFUSALS)
def test_what_is_refused_leaves_nothing(tmp_path, monkeypatch, message, folder):
    write_dataset(tmp_path / "dataset", three_splits(), ["a", "b"])
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    options = REFUSALS[message](tmp_path, monkeypatch)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path, None, **options)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_refusal_beside_what_is_prepared_keeps_its_lock(tmp_path):
    """Another process may wait for it, and would otherwise prepare at the same time as a third."""
    made = prepared(tmp_path, three_splits(), formats="array")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="for photographs"):
        prepared(tmp_path, None, formats="planes")
    with partial.lock(made.folder):
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_a_lock_whose_file_was_removed_while_it_was_waited_for_is_made_anew(tmp_path, monkeypatch):
    """Else a third process makes a new file and locks it, too."""
    real = partial._open_lock
    opened = []

    def open_lock(path):
        file = real(path)
        if not opened:
            path.unlink()
        opened.append(path)
        return file

    monkeypatch.setattr(partial, "_open_lock", open_lock)
    target = tmp_path / "target"
    with partial.lock(target), pytest.raises(BlockingIOError), partial.lock(target, wait=False):
        pass
    assert len(opened) == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_dataset_prepared_on_a_disk_that_cannot_be_written_is_found(tmp_path, monkeypatch, number):
    made = prepared(tmp_path, three_splits())

    def refuse(target):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(partial, "_open_lock", refuse)
    assert prepared(tmp_path, None) == made
    assert prepared(tmp_path, None, verify=True) == made


def test_verifying_what_is_not_prepared_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match=r"holds no prepared dataset"):
        prepared(tmp_path, three_splits(), verify=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changed", [False, True])
def test_room_that_a_killed_run_has_taken_is_not_asked_for_again(tmp_path, monkeypatch, changed):
    with monkeypatch.context() as patch:
        interrupt_writing(patch)
        with pytest.raises(KeyboardInterrupt):
            prepared(tmp_path, three_splits(), formats="array")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    if changed:  # what was written is of no use, and dropped
        (tmp_path / "dataset/data/00003.png").write_bytes(encoded(noise(77, channels=3)))
        with pytest.raises(ValueError, match=r"needs about .* kB"):
            prepared(tmp_path, None, formats="array")
    else:
        assert prepared(tmp_path, None, formats="array").manifest.splits["train"].count == 30


def test_a_file_of_two_names_takes_its_room_once(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    (tmp_path / "a/file").write_bytes(noise(0, 1024, 1024).tobytes())
    os.link(tmp_path / "a/file", tmp_path / "b/file")
    folders = [tmp_path / name for name in "ab"] + [tmp_path / "missing"]
    assert 1 << 20 <= partial.used_bytes(folders) < 3 << 19


def test_a_manifest_of_another_version_is_refused_with_the_command(tmp_path):
    made = prepared(tmp_path, three_splits())
    path = made.folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(ValueError, match=r"format version 99.*prepare\.py"):
        manifest.read(made.folder)


HASHES = from_hex(np.array([f"{i:032x}" for i in range(3000)], "S32"))


def numbers(names):
    return np.array([NUMBER_OF[name] for name in names], np.int8)


def cut_missing(names, *arguments, **options):
    """`splits.cut_missing` with names of splits in place of numbers."""
    cut, origin = splits.cut_missing(numbers(names), *arguments, **options)
    assert cut.dtype == np.int8
    return np.array(ALL_SPLITS)[cut], origin


def test_missing_splits_are_cut_stratified_and_equal_images_stay_together():
    labels = np.arange(3000) % 10
    hashes = HASHES.copy()
    hashes[1::2] = hashes[::2]
    names, origin = cut_missing(np.full(3000, "train"), labels, hashes, 0.1)
    shares = [np.mean(names == name) for name in ("train", "validation", "test")]
    assert shares == pytest.approx([0.72, 0.08, 0.2], abs=0.02)
    assert origin == {"train": "dataset", "validation": "cut, 10% of train", "test": "cut, 20% of train"}
    for label in range(10):
        assert 0.12 < np.mean(names[labels == label] == "test") < 0.28
    pairs = labels[::2] == labels[1::2]
    assert (names[::2][pairs] == names[1::2][pairs]).all()


def test_a_test_split_without_labels_is_not_replaced_by_a_cut_and_validation_is_cut_as_ever():
    labels = np.arange(3000) % 10
    labels[2000:] = -1
    given = np.array(["train"] * 2000 + ["test_unlabeled"] * 1000)
    names, origin = cut_missing(given, labels, HASHES, 0.1)
    assert list(origin) == ["train", "validation", "test_unlabeled"]
    assert (names[2000:] == "test_unlabeled").all()
    without, _ = cut_missing(np.array(["train"] * 2000 + ["test"] * 1000), labels, HASHES, 0.1)
    assert (names[:2000] == without[:2000]).all()
    assert splits.are_missing(numbers(given), 0.1)
    assert not splits.are_missing(numbers(given), 0.0)


@pytest.mark.parametrize("name", ["array", "beton", "tar"])
def test_images_without_labels_are_prepared_as_a_split_of_their_own(tmp_path, name):
    data = rows(30) + rows(5, "test", seed=60, label=None)
    made = prepared(tmp_path, data, formats=name)
    assert {split: info.count for split, info in made.manifest.splits.items() if split != "validation"} == {
        "train": 30 - made.manifest.splits["validation"].count,
        "test_unlabeled": 5,
    }
    assert made.manifest.unlabeled_splits == ["test_unlabeled"]
    assert made.manifest.splits["test_unlabeled"].per_class == [0, 0]
    listed = table.open_table(made.folder, made.manifest, "test_unlabeled")
    assert listed.labels.tolist() == [-1] * 5
    assert listed.files == [f"data/{number:05d}.png" for number in range(30, 35)]
    store = FORMATS[name].open(made.folder, made.manifest, "test_unlabeled")
    assert store.labels.tolist() == [-1] * 5


def test_the_share_of_test_can_be_chosen():
    names, origin = cut_missing(np.full(3000, "train"), np.arange(3000) % 10, HASHES, 0.1, test_fraction=0.4)
    assert np.mean(names == "test") == pytest.approx(0.4, abs=0.02)
    assert origin["test"] == "cut, 40% of train"


def test_adding_images_moves_none_of_the_others():
    labels = np.arange(3000) % 10
    before, _ = cut_missing(np.full(2000, "train"), labels[:2000], HASHES[:2000], 0.1)
    after, _ = cut_missing(np.full(3000, "train"), labels, HASHES, 0.1)
    assert (after[:2000] == before).all()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_small_classes_give_at_least_one_from_three_images_and_keep_one(count):
    labels = np.repeat(np.arange(200), count)
    names, _ = cut_missing(np.full(len(labels), "train"), labels, HASHES[: len(labels)], 0.1)
    for label in range(200):
        mine = names[labels == label]
        assert (mine == "train").any()
        assert count < 3 or (mine == "test").any()


SCRIPT = """
import os, signal, sys
from trainer_classification.preparation import job, pipeline
from trainer_classification.config import PrepareConfig
job.IMAGES_PER_JOB = 7
real, left = job.run_job, [int(sys.argv[3])]
def run_job(*args):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args)
job.run_job = run_job
pipeline.prepare(PrepareConfig(dataset=sys.argv[1], prepared=sys.argv[2], workers=1, image_size=int(sys.argv[4])))
"""


@pytest.mark.parametrize("size", [12, 64])
def test_sigkill_after_every_job_still_ends_with_the_bytes_of_an_undisturbed_run(tmp_path, size):
    data = three_splits() if size == 12 else photos()
    whole = tree(prepared(tmp_path, data, image_size=size).folder)
    codes = []
    while not codes or codes[-1] != 0:
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "dataset"), str(tmp_path / "killed"), "3", str(size)]
        codes.append(subprocess.run(command, capture_output=True, env=os.environ).returncode)
    assert codes == [-signal.SIGKILL] * (2 if size == 12 else 1) + [0]
    (killed,) = (tmp_path / "killed").glob(f"tiny-{size}px-*")
    assert tree(killed) == whole


def photos():
    """Smooth JPEGs of many sizes, one gray, one turned by EXIF, one PNG with transparency."""
    y, x = np.mgrid[:200, :300]
    image = np.stack([y, x * 255 // 300, (x + y) // 2], 2).astype(np.uint8)
    data = []
    for number in range(24):
        shown = image[: 80 + 5 * number, : 300 - 7 * number]
        content, suffix = encoded(shown, "JPEG", quality=90), ".jpg"
        if number == 3:
            content = encoded(shown[:, :, 0], "JPEG")
        if number == 5:
            exif = Image.Exif()
            exif[0x0112] = 6
            content = encoded(shown, "JPEG", exif=exif)
        if number == 7:
            content, suffix = encoded(np.dstack([shown, shown[:, :, 0]])), ".png"
        height, width = shown.shape[:2]
        row = {"data": content, "suffix": suffix, "label": "ab"[number % 2], "width": width, "height": height}
        data.append(row | {"split": ("train", "train", "validation", "test")[number % 4]})
    return data


def test_one_pass_writes_every_format_and_each_holds_every_image(tmp_path):
    made = prepared(tmp_path, photos(), image_size=64)
    assert set(made.manifest.formats) == {"array", "beton", "tar"}
    for split, info in made.manifest.splits.items():
        files = table.open_table(made.folder, made.manifest, split).files
        tars, betons = (
            tar.open_tars(made.folder / "tar", split, info.count),
            beton.open_beton(made.folder / beton.path(split)),
        )
        assert len(open_array(made.folder, made.manifest, split).images) == len(betons.labels) == len(files)
        assert tars.labels.tolist() == betons.labels.tolist()
        for sample, name in enumerate(files):
            original = (tmp_path / "dataset" / name).read_bytes()
            if name.endswith(".png"):
                decoded = np.asarray(Image.open(io.BytesIO(bytes(tars.image(sample)))))
                np.testing.assert_array_equal(decoded, decode(original))
            else:
                assert bytes(tars.image(sample)) == original
            sides = sorted((int(betons.widths[sample]), int(betons.heights[sample])))
            assert min(sides[1], 3 * sides[0]) <= 162  # of panoramas three times the shorter side is bounded


@pytest.mark.parametrize("suffix", ["", ".my photo"])
def test_originals_of_any_name_are_in_the_tar_under_the_suffix_of_what_they_hold(tmp_path, suffix):
    data = [row | {"suffix": suffix} for row in photos()]
    data[8]["data"] = encoded(noise(8, 80, 90, 3))
    made = prepared(tmp_path, data, image_size=64)
    suffixes = {}
    for split, info in made.manifest.splits.items():
        tars = tar.open_tars(made.folder / "tar", split, info.count)
        for sample, name in enumerate(table.open_table(made.folder, made.manifest, split).files):
            number = int(name[5:10])
            suffixes[number] = tar_suffix(tars, sample)
            assert (bytes(tars.image(sample)) == data[number]["data"]) == (number != 7)  # has transparency: converted
    assert suffixes == {number: "png" if number in (7, 8) else "jpg" for number in range(24)}


@pytest.mark.parametrize("formats", ["array,beton,tar", "beton,tar"])
def test_a_jpeg_that_only_pillow_reads_is_encoded_anew_where_decoders_are_stricter(tmp_path, formats):
    data, damaged = photos(), (2, 4)  # of validation and train
    for number in damaged:
        content = data[number]["data"]
        data[number]["data"] = content[:-2] + b"some stray bytes" + content[-2:]
    made = prepared(tmp_path, data, image_size=64, beton_side=300, formats=formats)
    seen = []
    for split, info in made.manifest.splits.items():
        tars = tar.open_tars(made.folder / "tar", split, info.count)
        betons = beton.open_beton(made.folder / beton.path(split))
        for sample, name in enumerate(table.open_table(made.folder, made.manifest, split).files):
            if int(name[5:10]) in damaged:
                seen.append(int(name[5:10]))
                pixels = decode((tmp_path / "dataset" / name).read_bytes())
                assert tar_suffix(tars, sample) == "png"
                np.testing.assert_array_equal(decode(bytes(tars.image(sample))), pixels)
                assert betons.modes[sample] == beton.JPEG
                assert is_sound(bytes(betons.image(sample)))
                again = decode(bytes(betons.image(sample))).astype(int)
                assert np.abs(again - pixels).mean() < 4
    assert sorted(seen) == [2, 4]


def test_without_regions_only_converted_images_are_in_the_part_file(tmp_path):
    data = photos()[4:9]
    folder = write_dataset(tmp_path / "dataset", data, ["a", "b"])
    paths = [str(path) for path in sorted((folder / "data").iterdir())]
    spec = PrepareSpec(ArrayLayout(80, True, 3), {"tar": {}})
    nowhere = np.zeros(5, bool)
    job.run_job(
        job.Job(paths, np.zeros(5, np.int64), np.ones(5, np.int64), spec, tmp_path / "0", nowhere, nowhere, None, {})
    )
    result = job_result.load(tmp_path / "0").formats["tar"]
    original, converted = job_result.ORIGINAL, job_result.PART
    assert result.location.tolist() == [original, original, original, converted, original]
    outputs = assemble.FormatOutputs("tar", [tmp_path / "0"], np.zeros(1, np.int64), result, FileNames.of(paths), None)
    np.testing.assert_array_equal(decode(outputs.read(3)), decode(data[3]["data"]))
    assert (tmp_path / "0.tar").stat().st_size == result.bytes[3]


def test_small_images_lie_raw_in_the_beton_as_in_the_array(tmp_path):
    made = prepared(tmp_path, three_splits())
    store, images = beton.open_beton(made.folder / beton.path("train")), open_array(made.folder, made.manifest, "train")
    for sample in range(30):
        shown = store.image(sample).reshape(12, 12, 3)
        np.testing.assert_array_equal(shown, np.repeat(images.images[sample], 3, 2))


def test_a_format_added_later_gives_the_bytes_of_all_at_once_and_leaves_the_others_alone(tmp_path):
    whole = tree(prepared(tmp_path, photos(), image_size=64).folder)
    first = prepared(tmp_path, None, image_size=64, formats="tar", force=True)
    assert list(first.manifest.formats) == ["tar"]
    before = {path.name: path.stat().st_ino for path in (first.folder / "tar").iterdir()}
    prepared(tmp_path, None, image_size=64, formats="beton")
    last = prepared(tmp_path, None, image_size=64, formats="array,tar")
    assert {path.name: path.stat().st_ino for path in (last.folder / "tar").iterdir()} == before
    assert tree(last.folder) == whole


def test_other_options_of_the_beton_make_the_beton_alone_anew(tmp_path, monkeypatch):
    made = prepared(tmp_path, photos(), image_size=64)
    array_file = made.folder / array.path("train")
    before = array_file.stat().st_ino
    again = prepared(tmp_path, None, image_size=64, beton_mode="raw", beton_side=50)
    assert again.manifest.formats["beton"] == {"mode": "raw", "side": 50, "quality": 90}
    assert array_file.stat().st_ino == before
    store = beton.open_beton(made.folder / beton.path("train"))
    assert set(store.modes.tolist()) == {beton.RAW}
    longer = np.maximum(store.widths, store.heights).astype(int)
    shorter = np.minimum(store.widths, store.heights).astype(int)
    # Rounding the shorter side of a panorama can move its bound by a pixel or two.
    assert 50 <= np.minimum(longer, 3 * shorter).max() <= 52


def test_inspect_tells_what_write_needs_and_writes_nothing(tmp_path):
    folder = write_dataset(tmp_path / "dataset", photos(), ["a", "b"])
    config = PrepareConfig(dataset=str(folder), prepared=str(tmp_path / "out"), workers=1, image_size=64)
    info = inspect.inspect(config)
    assert not (tmp_path / "out").exists()
    assert (info.name, info.class_names, info.count, info.channels) == ("tiny", ["a", "b"], 24, 3)
    assert (info.image_size, info.train_size, info.train_size_reason, info.resized) == (80, 64, "--image-size", True)
    assert info.layout.image_bytes == 80 * 80 * 3
    assert info.sizes[1].tolist() == [293, 85]
    assert info.manifest is None
    made = write(info, ["tar"], config)
    assert made.folder == info.folder
    assert made.manifest.fingerprint == info.fingerprint
    assert inspect.inspect(config).manifest == made.manifest


def test_a_dataset_whose_table_has_no_sizes_is_inspected_by_its_files(tmp_path):
    data = [row | {"width": 0, "height": 0} for row in photos()]
    folder = write_dataset(tmp_path / "dataset", data, ["a", "b"])
    (folder / "data/00002.jpg").unlink()
    info = inspect.inspect(PrepareConfig(dataset=str(folder), prepared=str(tmp_path / "out")))
    assert info.sizes[:4].tolist() == [[300, 80], [293, 85], [1, 1], [279, 95]]


def test_sizes_beyond_what_is_noted_are_those_of_the_files(tmp_path, monkeypatch):
    """A side that wrapped around in 32 bits would be taken for a small one."""
    data = [row | {"width": 2**32 + 12} for row in rows(12)]
    folder = write_dataset(tmp_path / "dataset", data, ["a", "b"])
    config = PrepareConfig(dataset=str(folder), prepared=str(tmp_path / "out"))
    assert inspect.inspect(config).sizes.tolist() == [[12, 12]] * 12
    monkeypatch.setattr(inspect, "read_size", lambda path: (2**32 + 12, 3))
    assert inspect.inspect(config).sizes.tolist() == [[2**31 - 1, 3]] * 12


def test_write_adds_only_the_formats_it_is_asked_for(tmp_path):
    folder = write_dataset(tmp_path / "dataset", photos(), ["a", "b"])
    config = PrepareConfig(dataset=str(folder), prepared=str(tmp_path / "out"), workers=1, image_size=64)
    info = inspect.inspect(config)
    made = write(info, ["tar"], config)
    assert list(made.manifest.formats) == ["tar"]
    assert write(info, [], config).manifest == made.manifest
    raw = dataclasses.replace(config, beton_mode="raw")
    with_beton = write(info, ["beton"], raw)
    assert write(info, ["beton"], config, accept_existing=True).manifest == with_beton.manifest
    assert write(info, ["beton"], config).manifest.formats["beton"]["mode"] == "jpg"
    with pytest.raises(ValueError, match=r"holds beton, tar, not array: .*--formats array adds it"):
        open_array(made.folder, with_beton.manifest, "train")


@pytest.mark.parametrize("module", [assemble, preallocated])
def test_a_shard_that_reads_back_differently_is_an_error_that_names_the_image(tmp_path, monkeypatch, module):
    write = preallocated.write_at
    wrong = lambda at, data, place: write(at, [memoryview(bytes(255 - b for b in bytes(one))) for one in data], place)  # noqa: E731
    monkeypatch.setattr(module, "write_at", wrong)
    data, size, kind = (three_splits(), 12, "png") if module is assemble else (same_kind(), 64, "jpg")
    with pytest.raises(OSError, match=rf"array/train\.images\.bin differs .*data/00000\.{kind}"):
        prepared(tmp_path, data, image_size=size, formats="array")
    assert not (tmp_path / f"out/tiny-{size}px").exists()


def same_kind():
    return [row for row in photos() if row["suffix"] == ".jpg"]


def test_where_all_is_as_expected_nothing_is_copied(tmp_path, monkeypatch):
    monkeypatch.setattr(assemble, "write_at", None)
    monkeypatch.setattr(write_tar, "write_tars", None)
    prepared(tmp_path, same_kind(), image_size=64, beton_mode="raw")


@pytest.mark.parametrize("missing", ["test", "validation"])
@pytest.mark.parametrize("bad", [0, 1, 12, 21, 22])
def test_a_bad_image_leaves_the_shards_of_a_dataset_without_it(tmp_path, bad, missing):
    data = [row | {"split": "train" if row["split"] == missing else row["split"]} for row in same_kind()]
    options = {"image_size": 64, "beton_mode": "raw", "on_bad_image": "skip"}
    without = prepared(tmp_path / "without", data[:bad] + data[bad + 1 :], **options)
    data[bad] = data[bad] | {"data": data[bad]["data"][:-300]}
    with_it = prepared(tmp_path / "with", data, **options)
    assert len(with_it.manifest.skipped) == 1
    shards = [
        {name: info for name, info in made.manifest.files.items() if "table" not in name} for made in (without, with_it)
    ]
    assert shards[0] == shards[1]


def test_sizes_that_the_table_has_wrong_change_no_shard(tmp_path):
    options = {"image_size": 64, "beton_mode": "raw", "beton_side": 100}
    right = prepared(tmp_path / "right", same_kind(), **options)
    wrong = prepared(tmp_path / "wrong", [row | {"width": row["height"]} for row in same_kind()], **options)
    assert wrong.manifest.files == right.manifest.files


def test_an_image_of_another_colour_than_those_glanced_at_begins_the_array_anew(tmp_path, monkeypatch, capsys):
    data = three_splits()
    data[11]["data"] = encoded(noise(11, channels=3))
    at_once = prepared(tmp_path, data)
    monkeypatch.setattr(inspect, "_CHECKED_FOR_COLOR", 2)
    assert prepared(tmp_path, None, force=True).manifest == at_once.manifest
    assert "not all images are gray: starting again" in capsys.readouterr().err


def test_the_statistics_are_those_of_some_images_whatever_the_formats(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "SAMPLE_SIZE", 4)
    made = prepared(tmp_path, photos(), image_size=64)
    images = open_array(made.folder, made.manifest, "train").images[::3] / 255  # 12 of train, every third
    assert made.manifest.mean == pytest.approx(images.mean((0, 1, 2)))
    assert made.manifest.std == pytest.approx(images.std((0, 1, 2)))
    again = prepared(tmp_path, None, image_size=64, formats="tar", force=True)
    assert (again.manifest.mean, again.manifest.std) == (made.manifest.mean, made.manifest.std)


def test_an_error_in_a_worker_process_ends_the_command_with_its_text(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "IMAGES_PER_JOB", 20)
    write_dataset(tmp_path / "dataset", three_splits(), ["a", "b"])
    parts = partial.partial_folder(target(tmp_path)) / "parts"
    (parts / "000001.array").mkdir(parents=True)  # a file cannot be written there
    monkeypatch.setattr(partial, "claim", lambda *_: None)
    with pytest.raises(OSError, match=r"000001\.array"):
        prepared(tmp_path, None, workers=2)


def test_equal_images_with_different_labels_are_listed_each_time(tmp_path, capsys):
    data = three_splits()
    data[7]["data"] = data[2]["data"]  # b and a
    data[9]["data"] = data[5]["data"]  # b and b
    made = prepared(tmp_path, data)
    assert made.manifest.conflicts == [{"classes": ["a", "b"], "files": ["data/00002.png", "data/00007.png"]}]
    for _ in range(2):
        errors = capsys.readouterr().err
        assert "Warning: equal images have different labels (1 found)" in errors
        assert "data/00002.png, data/00007.png (a and b)" in errors
        assert "00009" not in errors
        assert prepared(tmp_path, None).manifest == made.manifest


def target(tmp_path, **options):
    """The folder that a dataset will be prepared in."""
    return inspect.inspect(
        PrepareConfig(dataset=str(tmp_path / "dataset"), prepared=str(tmp_path / "out"), **options)
    ).folder


def test_datasets_of_one_name_do_not_replace_each_other_though_their_files_have_equal_sizes(tmp_path):
    made = {}
    for place in ("A", "B"):
        pixels = [noise(number + 100 * (place == "B")) for number in range(40)]
        data = [
            {"data": encoded(one, "BMP"), "label": "ab"[i % 2], "split": "train", "suffix": ".bmp"}
            for i, one in enumerate(pixels)
        ]
        write_dataset(tmp_path / place / "data", data, ["a", "b"])
        config = PrepareConfig(dataset=str(tmp_path / place / "data"), prepared=str(tmp_path / "out"), workers=1)
        made[place] = tree(prepare(config).folder)
    assert made["A"]["array/train.images.bin"] != made["B"]["array/train.images.bin"]
    assert len(list((tmp_path / "out").glob("*/manifest.json"))) == 2


def test_a_dataset_under_an_older_name_or_moved_since_is_found(tmp_path):
    made = prepared(tmp_path, three_splits())
    made.folder.rename(tmp_path / "out/tiny-12px")
    assert prepared(tmp_path, None).folder == tmp_path / "out/tiny-12px"
    (tmp_path / "dataset").rename(tmp_path / "moved")
    again = prepare(PrepareConfig(dataset=str(tmp_path / "moved"), prepared=str(tmp_path / "out"), workers=1))
    assert again.folder == tmp_path / "out/tiny-12px"


def test_what_a_run_reads_is_not_replaced_and_formats_are_added_all_the_same(tmp_path):
    made = prepared(tmp_path, three_splits(), formats="array")
    before = tree(made.folder)
    with in_use.hold(made.folder):
        with pytest.raises(ValueError, match=r"A run in progress reads .*wait until the run has ended"):
            prepared(tmp_path, None, formats="array", force=True)
        assert tree(made.folder) == before
        prepared(tmp_path, None, formats="tar")
    assert set(prepared(tmp_path, None, formats="array", force=True).manifest.formats) == {"array"}


@pytest.mark.parametrize("suffix", ["", ".partial", ".old"])
@pytest.mark.parametrize("option", [{}, {"force": True}])
def test_a_folder_that_prepare_did_not_make_is_never_deleted(tmp_path, suffix, option):
    write_dataset(tmp_path / "dataset", three_splits(), ["a", "b"])
    whole = target(tmp_path)
    place = whole.with_name(whole.name + suffix)
    place.mkdir(parents=True)
    (place / "precious.txt").write_text("the only copy")
    with pytest.raises(ValueError, match=rf"{place.name} .* not made by prepare: move it away"):
        prepared(tmp_path, None, **option)
    assert tree(place) == {"precious.txt": b"the only copy"}


def test_a_task_named_like_a_path_is_prepared_below_out(tmp_path):
    task = "x/../../precious"
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/thesis.txt").write_text("the only copy")
    tasks = [{"primitive": "Classification", "classes": [{"name": "a"}, {"name": "b"}], "name": task}]
    data = [row | {"task": task} for row in three_splits()]
    write_dataset(tmp_path / "dataset", data, ["a", "b"], name="../../tiny", tasks=tasks)
    made = prepared(tmp_path, None, task=task)
    assert made.folder.resolve().parent == tmp_path / "out"
    assert sorted(os.listdir(tmp_path)) == ["dataset", "out", "precious"]
    assert os.listdir(tmp_path / "precious") == ["thesis.txt"]


def test_the_closing_table_counts_what_is_left_out_by_suffix(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    photos = tmp_path / "photos[b]"  # would be markup to the library that prints the table
    for number in range(40):
        path = photos / f"{'ab'[number % 2]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(noise(number)))
    for name in ("0.[b]", "0b.[b]", "1.heic", "2.heic", "3.jxl", "4.txt", "5", *(f"{n}.x{n}y" for n in range(12))):
        (photos / "a" / name).write_bytes(b"no image")

    prepare(PrepareConfig(dataset=str(photos), prepared=str(tmp_path / "out"), workers=1, formats="array"))

    said = capsys.readouterr().err
    assert "photos[b] 0.0.0" in said
    closing = said.partition("Left out (no images)")[2]
    lines = [" ".join(line.replace("│", " ").split()) for line in closing.splitlines()]
    assert ".heic 2 convert .heic files (heif-convert x.heic x.jpg) or install pillow-heif" in lines
    assert ".jxl 1 convert .jxl files (djxl x.jxl x.png) or install pillow-jxl-plugin" in lines
    assert ".txt 1" in lines
    assert "none 1" in lines
    assert ".[b] 2" in lines
    assert "5 others 5" in lines


@pytest.mark.parametrize("shape", [(66_000, 20), (20, 66_000)])
@pytest.mark.parametrize("mode", ["jpg", "raw"])
def test_a_panorama_longer_than_a_jpeg_can_be_is_stored_smaller_in_the_beton(tmp_path, shape, mode):
    """66,000 px do not fit in the 16 bits that FFCV's format has for a side either."""
    width, height = shape
    data = three_splits()
    data[0] |= {"data": encoded(noise(1, height, width, channels=3)), "width": width, "height": height}
    made = prepared(tmp_path, data, beton_side=-1, beton_mode=mode, formats="array,beton", image_size=32)
    assert made.manifest.skipped == []
    index = beton.open_split(made.folder, made.manifest, "train")
    assert sorted((int(index.widths[0]), int(index.heights[0]))) == [20, 65_500]
    assert table.open_table(made.folder, made.manifest, "train").sizes[0].tolist() == [width, height]


def test_unknown_formats_are_refused():
    with pytest.raises(ValueError, match="--formats has 'beaton', but may list: array,beton,tar,planes"):
        PrepareConfig(formats="array,beaton")


UNGUARDED = """
import sys
from trainer_classification.config import PrepareConfig
from trainer_classification.preparation import job, pipeline
job.IMAGES_PER_JOB = 7
pipeline.prepare(PrepareConfig(dataset=sys.argv[1], prepared=sys.argv[2], workers=2))
print("prepared once")
"""


def test_worker_processes_do_not_run_the_program_that_started_them(tmp_path):
    folder = write_dataset(tmp_path / "dataset", three_splits(), ["a", "b"])
    (tmp_path / "program.py").write_text(UNGUARDED)
    command = [sys.executable, str(tmp_path / "program.py"), str(folder), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "prepared once\n"
