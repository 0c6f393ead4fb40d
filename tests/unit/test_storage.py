"""Datasets are prepared into object storage and trained from there, with the bytes of a local folder."""

import shutil

import fsspec
import pytest

from helpers import rows, tree, write_dataset
from trainer_classification import storage
from trainer_classification.config import PrepareConfig
from trainer_classification.data import mirror
from trainer_classification.preparation.pipeline import prepare
from trainer_classification.storage import ObjectStore

URL = "memory://bucket/prepared"


@pytest.fixture
def memory(tmp_path, monkeypatch):
    """The objects in memory, none at first, and a cache that is the test's own."""
    system = fsspec.filesystem("memory")
    monkeypatch.setenv("TRAINER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "_WAITS", (0.0,))
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.fixture
def dataset(tmp_path):
    """A dataset of small images of two splits."""
    return write_dataset(tmp_path / "data", rows(40) + rows(20, "test", seed=500), ["a", "b"])


def config(dataset, prepared, **options):
    return PrepareConfig(dataset=str(dataset), prepared=str(prepared), workers=1, **options)


def objects(system):
    """Content of all objects of the one dataset, but for the checksums that a local folder has not."""
    found = {}
    for name, file in system.store.items():
        dataset, _, path = name.removeprefix("/bucket/prepared/").partition("/")
        assert dataset.startswith("tiny-"), name
        found[path] = file.getvalue()
    found.pop(mirror.CHECKSUMS)
    return found


def cached(tmp_path):
    (folder,) = (tmp_path / "cache").glob("*/tiny-*")
    return folder


def drop_cache(tmp_path):
    shutil.rmtree(tmp_path / "cache")


@pytest.mark.parametrize("formats", ["array,beton,tar", "tar"])
def test_prepare_into_a_store_makes_the_objects_of_a_local_folder(memory, dataset, tmp_path, formats):
    local = prepare(config(dataset, tmp_path / "local", formats=formats))
    prepare(config(dataset, URL, formats=formats))
    assert objects(memory) == tree(local.folder)


def test_a_second_prepare_finds_it_whatever_the_cache_holds(memory, dataset, tmp_path, capsys):
    prepare(config(dataset, URL))
    before = {name: file.modified for name, file in memory.store.items()}
    for forget in (lambda: None, lambda: drop_cache(tmp_path)):
        forget()
        prepare(config(dataset, URL))
        assert "prepared already in memory://" in capsys.readouterr().err
        assert {name: file.modified for name, file in memory.store.items()} == before


def test_a_format_is_added_without_a_local_copy_of_the_others(memory, dataset, tmp_path):
    local = prepare(config(dataset, tmp_path / "local", formats="array,tar"))
    prepare(config(dataset, URL, formats="array"))
    drop_cache(tmp_path)
    prepare(config(dataset, URL, formats="array,tar"))
    assert objects(memory) == tree(local.folder)
    assert len(mirror.unpack_checksums(memory.cat(path_of(memory, mirror.CHECKSUMS)))[0]) == len(local.manifest.files)


def path_of(system, name):
    (path,) = [path for path in system.store if path.endswith(name)]
    return path


def test_an_upload_that_breaks_off_leaves_nothing_that_is_taken_for_whole(memory, dataset, tmp_path, monkeypatch):
    put = type(memory).put_file

    def fail(self, file, path, *args, **options):
        if path.endswith("train.images.bin"):
            raise OSError("the line is cut")
        put(self, file, path, *args, **options)

    with monkeypatch.context() as broken:
        broken.setattr(type(memory), "put_file", fail)
        with pytest.raises(ValueError, match=r"train\.images\.bin cannot be written: the line is cut"):
            prepare(config(dataset, URL, formats="array"))
    assert not any(name.endswith("manifest.json") for name in memory.store)

    local = prepare(config(dataset, tmp_path / "local", formats="array"))
    prepare(config(dataset, URL, formats="array"))  # goes on from what is here
    assert objects(memory) == tree(local.folder)


def test_an_object_that_arrives_short_is_written_again(memory, dataset, tmp_path, monkeypatch):
    put = type(memory).put_file
    cut = []

    def cut_once(self, file, path, *args, **options):
        put(self, file, path, *args, **options)
        if path.endswith(".bin") and path not in cut:
            cut.append(path)
            self.pipe_file(path, self.cat_file(path)[:-1])

    monkeypatch.setattr(type(memory), "put_file", cut_once)
    local = prepare(config(dataset, tmp_path / "local", formats="array"))
    prepare(config(dataset, URL, formats="array"))
    assert len(cut) == 3  # splits
    assert objects(memory) == tree(local.folder)


def test_a_file_that_changed_after_it_was_checked_is_not_published(memory, dataset, tmp_path):
    prepare(config(dataset, URL, formats="array"))
    folder = cached(tmp_path)
    mirror.forget_origin(folder)  # as if the upload had not begun
    memory.store.clear()
    path = folder / "array/train.images.bin"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(OSError, match=r"is not what was written: prepare the dataset again with --force"):
        prepare(config(dataset, URL, formats="array"))
    assert not any(name.endswith("manifest.json") for name in memory.store)


def test_verify_reads_the_objects(memory, dataset):
    prepare(config(dataset, URL, formats="array"))
    prepare(config(dataset, URL, formats="array", verify=True))
    path = path_of(memory, "array/train.images.bin")
    content = bytearray(memory.cat_file(path))
    content[7] ^= 1
    memory.pipe_file(path, bytes(content))
    with pytest.raises(ValueError, match=r"memory://.*train\.images\.bin is missing or damaged"):
        prepare(config(dataset, URL, formats="array", verify=True))


def test_force_replaces_what_is_damaged(memory, dataset, tmp_path):
    local = prepare(config(dataset, tmp_path / "local", formats="array"))
    prepare(config(dataset, URL, formats="array"))
    memory.pipe_file(path_of(memory, "array/train.images.bin"), b"damaged")
    prepare(config(dataset, URL, formats="array", force=True))
    assert objects(memory) == tree(local.folder)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/x", "scheme is unknown: use a local folder, or one of file://, s3://, gs://, az://"),
        ("s3://", "has to name a bucket, as s3://BUCKET/PATH"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_sentence(url, message):
    with pytest.raises(ValueError, match=message):
        PrepareConfig(prepared=url)


def test_a_file_url_is_a_path(tmp_path):
    assert PrepareConfig(prepared=f"file://{tmp_path}").prepared == str(tmp_path)


@pytest.mark.parametrize(("url", "sentence"), [("s3://b/x", "extra `storage`"), ("gs://b/x", "pip install gcsfs")])
def test_a_missing_library_is_one_sentence(url, sentence, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    storage._open_system.cache_clear()
    with pytest.raises(ValueError, match=sentence):
        ObjectStore(url)
