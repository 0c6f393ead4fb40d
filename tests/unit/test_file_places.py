"""Where the files of a dataset lie is known before one is opened."""

import os

import polars as pl
import pytest

from helpers import encoded, noise, rows, write_dataset
from trainer_classification.data.file_places import look_at_files
from trainer_classification.data.source import ReadOptions, find_dataset


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "tiny", rows(8), ["a", "b"])


@pytest.fixture
def stranger(tmp_path):
    path = tmp_path / "elsewhere" / "x.png"
    path.parent.mkdir()
    path.write_bytes(encoded(noise(99)))
    return path


def with_path(dataset, path):
    """Let the table's last row name another file."""
    table = pl.read_parquet(dataset / "annotations.parquet")
    paths = [*table["file_path"].to_list()[:-1], str(path)]
    table.with_columns(file_path=pl.Series(paths)).write_parquet(dataset / "annotations.parquet")


def as_absolute(dataset, stranger):
    with_path(dataset, stranger)


def as_relative(dataset, stranger):
    with_path(dataset, "../elsewhere/x.png")


def as_link(dataset, stranger):
    (dataset / "data/00007.png").unlink()
    (dataset / "data/00007.png").symlink_to(stranger)


def as_linked_folder(dataset, stranger):
    (dataset / "more").symlink_to(stranger.parent)
    with_path(dataset, "more/x.png")


WAYS = [as_absolute, as_relative, as_link, as_linked_folder]


@pytest.mark.parametrize("lead_out", WAYS)
def test_an_image_outside_of_the_folder_is_noted_and_read(dataset, stranger, lead_out):
    lead_out(dataset, stranger)
    source = find_dataset(str(dataset))
    (note,) = (note for note in source.notes if "outside" in note)
    assert f"1 of 8 images lie outside of the dataset's folder {dataset}" in note
    assert str(stranger) in note
    assert source.bytes[-1] == stranger.stat().st_size


@pytest.mark.parametrize("lead_out", WAYS)
def test_an_image_outside_of_the_folder_is_refused_if_none_is_allowed(dataset, stranger, lead_out):
    lead_out(dataset, stranger)
    with pytest.raises(ValueError, match=r"1 of 8 images lie outside .*x\.png.*--allow-outside all"):
        find_dataset(str(dataset), options=ReadOptions(allow_outside="none"))


def test_in_the_cloud_only_what_lies_below_the_mount_is_read(dataset, stranger, monkeypatch):
    as_link(dataset, stranger)
    monkeypatch.setenv("HAFNIA_CLOUD", "true")
    monkeypatch.setenv("MDI_DATASET_DIR", str(dataset))
    with pytest.raises(ValueError, match="lie outside"):
        find_dataset("")
    assert len(find_dataset("", options=ReadOptions(allow_outside="all")).files) == 8


def test_a_dataset_that_is_reached_by_a_link_lies_in_itself(dataset, tmp_path):
    (tmp_path / "link").symlink_to(dataset)
    options = ReadOptions(allow_outside="none")
    assert len(find_dataset(str(tmp_path / "link"), options=options).files) == 8
    with_path(dataset, dataset / "data/00000.png")  # absolute, and inside
    assert len(find_dataset(str(tmp_path / "link"), options=options).files) == 8


def test_a_folder_whose_name_begins_alike_is_outside(dataset, tmp_path):
    (tmp_path / "tiny2").mkdir()
    (tmp_path / "tiny2/x.png").write_bytes(encoded(noise(5)))
    with_path(dataset, "../tiny2/x.png")
    with pytest.raises(ValueError, match="lie outside"):
        find_dataset(str(dataset), options=ReadOptions(allow_outside="none"))


@pytest.mark.parametrize("kind", ["a pipe", "a device"])
def test_a_pipe_or_a_device_is_refused_by_name_before_it_is_opened(dataset, kind):
    path = dataset / "data/00003.png"
    path.unlink()
    if kind == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=rf"00003\.png is {kind}, no image file: remove it"):
        find_dataset(str(dataset))


def test_in_a_folder_of_images_a_pipe_is_no_image(tmp_path):
    for name in ("cat", "owl"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.png").write_bytes(encoded(noise(len(name))))
    os.mkfifo(tmp_path / "photos/cat/2.png")
    assert find_dataset(str(tmp_path / "photos")).files == ["cat/1.png", "owl/1.png"]


def test_files_that_are_not_there_have_no_size(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.png").write_bytes(b"12345")
    (tmp_path / "2.png").write_bytes(b"123")
    absolute = str(tmp_path / "a/1.png")
    files = ["a/1.png", "a/2.png", "b/1.png", "2.png", absolute, "nul\0/x.png", "a/nul\0.png", "a/", "", "2.png/x"]
    places = look_at_files(tmp_path, files)
    assert places.bytes.tolist() == [5, 0, 0, 3, 5, 0, 0, 0, 0, 0]
    assert (places.times.min(1) > 0).tolist() == (places.bytes > 0).tolist()
    assert places.outside == 0


def test_no_descriptor_is_left_open(tmp_path):
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a/pipe.png")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ValueError, match="a pipe"):
        look_at_files(tmp_path, ["x.png", "a/pipe.png"])
    assert os.listdir("/proc/self/fd") == before
