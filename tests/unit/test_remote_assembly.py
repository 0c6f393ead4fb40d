"""Workers of a cluster assemble tars in the store, with the bytes of a local prepare, whatever dies or runs twice."""

import shutil
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest

from helpers import encoded, noise, photograph, rows, tree, write_dataset
from memory_store import URL, Cluster, config, objects, path_of
from trainer_classification.data import mirror, tar
from trainer_classification.data.table import open_table
from trainer_classification.preparation import job, remote_assembly, write_tar
from trainer_classification.preparation.job_result import ORIGINAL
from trainer_classification.preparation.pipeline import prepare
from trainer_classification.preparation.remote_source import open_prepared
from trainer_classification.storage import ObjectStore

CLUSTER = {"executor": "dask", "executor_address": "x"}
JOBS = ["000000", "000001", "000002", "000003"]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Let a split have several shards, and requests be several to an object."""
    layout = tar.layout
    monkeypatch.setattr(tar, "layout", lambda sizes, *_: layout(sizes, 20_000))
    monkeypatch.setattr(remote_assembly, "OTHER_GAP_BYTES", 200)
    monkeypatch.setattr(remote_assembly, "RUN_BYTES", 2_000)
    monkeypatch.setattr(mirror, "_BLOCK_BYTES", 4096)


@pytest.fixture
def dataset(tmp_path):
    """A dataset of four jobs: files that a tar keeps, others that it converts, and some without a label."""
    bitmaps = [
        {"data": encoded(noise(900 + i), "BMP"), "label": "ab"[i % 2], "split": "train", "suffix": ".bmp"}
        for i in range(20)
    ]
    unlabeled = rows(10, "test", classes=[None], seed=700)
    return write_dataset(tmp_path / "data", [*rows(20), *bitmaps, *rows(20, seed=400), *unlabeled], ["a", "b"])


@pytest.fixture
def local(dataset, tmp_path):
    """The bytes of a local prepare."""
    return tree(prepare(config(dataset, tmp_path / "local", formats="tar")).folder)


def shards(local):
    return sorted(name for name in local if name.endswith(".tar"))


def test_shards_have_the_bytes_of_a_local_prepare_and_are_not_on_this_machine(memory, dataset, local, tmp_path):
    prepare(config(dataset, URL, formats="tar"))
    checksums = block_checksums(memory)
    memory.store.clear()

    with pytest.MonkeyPatch.context() as patch:
        cluster = Cluster(patch)
        moved = []
        for method in ("put_file", "get_file"):
            note_calls(patch, memory, method, moved)
        made = prepare(config(dataset, URL, formats="tar", force=True, **CLUSTER))
    assert len(shards(local)) > 4
    assert sorted(cluster.done) == JOBS + shards(local)
    assert objects(memory) == local  # and no part is left
    assert block_checksums(memory) == checksums
    assert not list(made.folder.rglob("*.tar"))
    assert not [name for name in moved if "/parts/" in name and ".tar" in name]

    again = prepare(config(dataset, URL, formats="tar"))
    assert again.manifest == made.manifest
    folder, found = open_prepared(URL, "tiny")
    images = tar.open_split(folder, found, "train")
    np.testing.assert_array_equal(images.labels, open_table(folder, found, "train").labels)


def block_checksums(memory):
    blocks, sums = mirror.unpack_checksums(memory.cat_file(path_of(memory, mirror.CHECKSUMS)))
    return blocks, {name: values.tolist() for name, values in sums.items()}


def note_calls(patch, system, method, seen):
    """Note the local files of all calls of a method of the store."""
    whole = getattr(type(system), method)
    local = 1 if method == "get_file" else 0

    def call(self, *paths, **options):
        seen.append(paths[local])
        return whole(self, *paths, **options)

    patch.setattr(type(system), method, call)


def run(dataset, **options):
    return prepare(config(dataset, URL, formats="tar", **CLUSTER, **options))


def drop_cache(tmp_path):
    shutil.rmtree(tmp_path / "cache")


@pytest.mark.parametrize("forget", [True, False])
@pytest.mark.parametrize("pieces", [4, 7])
def test_a_run_that_ends_between_jobs_and_shards_or_among_shards_is_gone_on_with(
    memory, dataset, local, tmp_path, monkeypatch, pieces, forget
):
    first = Cluster(monkeypatch, pieces)
    with pytest.raises(ConnectionError):
        run(dataset)
    assert len(first.done) == pieces
    if forget:
        drop_cache(tmp_path)
    second = Cluster(monkeypatch)
    run(dataset)
    assert sorted(first.done + second.done) == JOBS + shards(local)
    assert objects(memory) == local


class DyingCluster(Cluster):
    """Workers of which one is killed at a call, after which its work is given to another."""

    def __init__(self, monkeypatch, method, name):
        super().__init__(monkeypatch)
        self.killed = []
        whole = getattr(ObjectStore, method)

        def call(store, *arguments):
            if not self.killed and any(str(argument).endswith(name) for argument in arguments):
                self.killed.append(arguments)
                raise KilledWorker
            return whole(store, *arguments)

        monkeypatch.setattr(ObjectStore, method, call)

    def map(self, function, pieces):
        def call(piece):
            try:
                return function(piece)
            except KilledWorker:
                return function(piece)

        return super().map(call, pieces)


class KilledWorker(BaseException):
    """Ends a worker."""


@pytest.mark.parametrize(("method", "name"), [("upload", ".tar"), ("write", ".made")])
def test_a_worker_that_is_killed_before_or_after_its_shard_is_written_changes_nothing(
    memory, dataset, local, monkeypatch, method, name
):
    cluster = DyingCluster(monkeypatch, method, name)
    run(dataset)
    assert cluster.killed
    assert objects(memory) == local


def test_workers_that_are_lost_with_a_shard_again_and_again_are_one_sentence(memory, dataset, local, monkeypatch):
    class Lost(Cluster):
        def map(self, function, pieces):
            if len(self.done) == len(JOBS):
                raise BrokenProcessPool("lost")
            return super().map(function, pieces)

    Lost(monkeypatch)
    with pytest.raises(ValueError, match=r"A worker process was killed.*Finished work is kept: run the same command"):
        run(dataset)
    cluster = Cluster(monkeypatch)
    run(dataset)
    assert sorted(cluster.done) == shards(local)
    assert objects(memory) == local


def test_shards_of_other_images_are_not_taken_for_these(memory, dataset, local, tmp_path, monkeypatch):
    """A file that could once not be read is there again, when the result of its job is lost."""
    read = job.read_file

    def fail(path):
        if path.endswith("00003.png"):
            raise OSError("the disk is gone")
        return read(path)

    Cluster(monkeypatch, len(JOBS) + len(shards(local)) - 1)
    with monkeypatch.context() as broken:
        broken.setattr(job, "read_file", fail)
        with pytest.raises(ConnectionError):
            run(dataset, on_bad_image="skip")
    memory.rm_file(path_of(memory, "/000000.part"))
    drop_cache(tmp_path)
    Cluster(monkeypatch)
    run(dataset, on_bad_image="skip")
    assert objects(memory) == local


def change(memory, path):
    content = bytearray(memory.cat_file(path))
    content[-1] ^= 1
    memory.pipe_file(path, bytes(content))


def cut_off(memory, path):
    memory.pipe_file(path, memory.cat_file(path)[:-1])


def delete(memory, path):
    memory.rm_file(path)


@pytest.mark.parametrize("damage", [change, cut_off, delete])
@pytest.mark.parametrize("forget", [True, False])
def test_a_part_that_changed_in_the_store_is_one_sentence_and_made_again(
    memory, dataset, local, tmp_path, monkeypatch, damage, forget
):
    Cluster(monkeypatch, len(JOBS))
    with pytest.raises(ConnectionError):
        run(dataset)
    (path,) = [name for name in memory.store if name.endswith("/000001.tar")]  # the bitmaps
    damage(memory, path)

    Cluster(monkeypatch)
    with pytest.raises(
        ValueError, match=r"memory://[^ ]*/000001\.tar is not what was written there \(.+\): run the same"
    ):
        run(dataset)
    if forget:
        drop_cache(tmp_path)
    cluster = Cluster(monkeypatch)
    run(dataset)
    assert "000001" in cluster.done
    assert "000000" not in cluster.done
    assert objects(memory) == local


def test_a_file_that_changed_since_it_was_decoded_is_one_sentence(memory, dataset, monkeypatch):
    whole = remote_assembly.assemble_shard

    def change_and_call(piece):
        path = Path(piece.originals[int(np.flatnonzero(piece.result.location == ORIGINAL)[0])])
        path.write_bytes(path.read_bytes() + b"x")
        return whole(piece)

    monkeypatch.setattr(remote_assembly, "assemble_shard", change_and_call)
    Cluster(monkeypatch)
    with pytest.raises(ValueError, match=r"\.png has changed since it was decoded .* prepare the dataset again"):
        run(dataset)
    assert not [name for name in memory.store if name.endswith("manifest.json")]


def test_an_image_that_is_not_in_the_shard_as_its_job_had_it_is_one_sentence(memory, dataset, monkeypatch):
    whole = write_tar._read_image

    def turn(outputs, row):
        return whole(outputs, row)[::-1]

    Cluster(monkeypatch)
    monkeypatch.setattr(write_tar, "_read_image", turn)
    with pytest.raises(OSError, match=r"tar differs from what was written, at .*png"):
        run(dataset)


class CutError(Exception):
    """Ends the machine of prepare."""


@pytest.mark.parametrize("forget", [True, False])
def test_a_run_that_ends_while_shards_are_published_decodes_and_assembles_nothing_again(
    memory, dataset, local, tmp_path, monkeypatch, forget
):
    def cut(*_):
        raise CutError

    Cluster(monkeypatch)
    with monkeypatch.context() as broken:
        broken.setattr(ObjectStore, "copy", cut)
        with pytest.raises(CutError):
            run(dataset)
    assert not [name for name in memory.store if name.endswith("manifest.json")]
    if forget:
        drop_cache(tmp_path)
    second = Cluster(monkeypatch)
    run(dataset)
    assert second.done == []
    assert objects(memory) == local


def test_a_run_that_ends_once_the_manifest_is_written_leaves_a_dataset_that_is_read(
    memory, dataset, local, monkeypatch
):
    def cut(*_):
        raise CutError

    Cluster(monkeypatch)
    with monkeypatch.context() as broken:
        broken.setattr(mirror, "adopt", cut)
        with pytest.raises(CutError):
            run(dataset)
    folder, found = open_prepared(URL, "tiny")
    images = tar.open_split(folder, found, "train")
    np.testing.assert_array_equal(images.labels, open_table(folder, found, "train").labels)
    run(dataset)
    assert objects(memory) == local


def test_a_manifest_is_deleted_before_shards_are_replaced(memory, dataset, local, monkeypatch):
    Cluster(monkeypatch)
    run(dataset)
    copy = ObjectStore.copy
    seen = []

    def look(store, *arguments):
        seen.append([name for name in memory.store if name.endswith("manifest.json")])
        copy(store, *arguments)

    monkeypatch.setattr(ObjectStore, "copy", look)
    run(dataset, force=True)
    assert seen == [[]] * len(shards(local))
    assert objects(memory) == local


def test_a_tar_is_added_to_an_array_and_the_other_way_round(memory, dataset, tmp_path, monkeypatch):
    expected = tree(prepare(config(dataset, tmp_path / "both", formats="array,tar")).folder)
    Cluster(monkeypatch)
    for first, second in (("array", "array,tar"), ("tar", "array,tar"), ("array,tar", "array,tar")):
        for formats in (first, second):
            prepare(config(dataset, URL, formats=formats, **CLUSTER))
        assert objects(memory) == expected
        memory.store.clear()
        drop_cache(tmp_path)


def test_a_store_that_copies_on_its_own_gets_the_shards_of_this_machine(memory, dataset, local, monkeypatch):
    monkeypatch.setattr(ObjectStore, "can_copy", False)
    cluster = Cluster(monkeypatch)
    run(dataset)
    assert cluster.done == JOBS
    assert objects(memory) == local


def test_bad_images_are_left_out(memory, dataset, tmp_path, monkeypatch):
    for name in ("00003.png", "00025.bmp"):
        (dataset / "data" / name).write_bytes(b"broken")
    options = {"formats": "tar", "on_bad_image": "skip"}
    expected = tree(prepare(config(dataset, tmp_path / "other", **options)).folder)
    Cluster(monkeypatch)
    run(dataset, on_bad_image="skip")
    assert objects(memory) == expected


def test_photographs_are_assembled(memory, tmp_path, monkeypatch):
    """Tars of images that are resized for other formats, some of which are not kept as they are."""
    odd = encoded(photograph(3, 120, 90), "WEBP", lossless=True)
    images = [{"data": encoded(photograph(i, 100, 130), "JPEG"), "suffix": ".jpg"} for i in range(30)]
    images += [{"data": odd, "suffix": ".webp"} | {} for _ in range(3)]
    data = [
        image | {"label": "ab"[i % 2], "split": "train", "width": 130, "height": 100} for i, image in enumerate(images)
    ]
    for image in data[-3:]:
        image |= {"width": 90, "height": 120}
    dataset = write_dataset(tmp_path / "photos", data, ["a", "b"])
    expected = tree(prepare(config(dataset, tmp_path / "other", formats="tar", image_size=64)).folder)
    Cluster(monkeypatch)
    run(dataset, image_size=64)
    assert objects(memory) == expected


def test_images_are_joined_within_a_part_over_small_gaps_up_to_the_bytes_of_a_request():
    part = [0, 0, 0, 0, 0, 1, 1]
    starts = [0, 100, 501, 1000, 2600, 2600, 9000]
    ends = [100, 300, 800, 2500, 3001, 2700, 99000]
    # Too wide a gap before 501, more than a request before 2600, another part, a larger image.
    expected = [range(2), range(2, 4), range(4, 5), range(5, 6), range(6, 7)]
    assert list(remote_assembly._join(part, starts, ends)) == expected
    assert list(remote_assembly._join([], [], [])) == []
