"""Datasets are prepared into object storage and trained from there, with the bytes of a local folder."""

import json
import shutil
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool

import fsspec
import numpy as np
import pytest
import torch

from helpers import rows, tree, write_dataset
from memory_store import URL, Cluster, config, objects, path_of
from trainer_classification import storage
from trainer_classification.config import PrepareConfig, TrainConfig
from trainer_classification.data import block_runs, mirror, remote_images
from trainer_classification.data.array import open_array
from trainer_classification.loaders.base import LoaderRequest
from trainer_classification.loaders.registry import EngineChoice, open_loader
from trainer_classification.plan import Plan, Policy
from trainer_classification.preparation import job, remote_source, remote_target
from trainer_classification.preparation.clean import clean
from trainer_classification.preparation.pipeline import prepare
from trainer_classification.preparation.remote_source import open_prepared
from trainer_classification.storage import ObjectStore
from trainer_classification.training.train import train


@pytest.fixture
def dataset(tmp_path):
    """A dataset of small images of two splits."""
    return write_dataset(tmp_path / "data", rows(40) + rows(20, "test", seed=500), ["a", "b"])


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
    with pytest.raises(OSError, match=r"is not what was written: prepare the dataset again with prepare.py --force"):
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
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    storage._open_system.cache_clear()
    with pytest.raises(ValueError, match=sentence):
        ObjectStore(url)


def open_remote(dataset_name="tiny"):
    folder, found = open_prepared(URL, dataset_name)
    return folder, found


def loader(folder, found, placement="host", rank=0, world_size=1, split="train", **options):
    plan = Plan(found.splits[split].count, 3, Policy(crop="shift", shift=1, flip=True)) if split == "train" else None
    request = LoaderRequest(folder, found, split, plan, 8, 12, torch.device("cpu"), 1, rank, world_size, **options)
    return open_loader(EngineChoice("resident", placement, ""), request)


def batches(opened, epoch=0, start=0):
    with opened:
        return [
            (batch.images.numpy().copy(), batch.labels.tolist(), batch.index.tolist(), batch.count)
            for batch in opened.epoch(epoch, start)
        ]


def assert_equal(first, second):
    assert len(first) == len(second)
    for mine, other in zip(first, second, strict=True):
        assert mine[1:] == other[1:]
        rows = mine[3]
        np.testing.assert_array_equal(mine[0][:rows], other[0][:rows])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A dataset as a local folder, and its objects: blocks of two images of 12 x 12 px, runs of three blocks."""
    folder = tmp_path_factory.mktemp("made")
    data = write_dataset(folder / "data", rows(40) + rows(20, "test", seed=500), ["a", "b"])
    system = fsspec.filesystem("memory")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINER_CACHE", str(folder / "cache"))
        patch.setattr(mirror, "_BLOCK_BYTES", 288)
        patch.setattr(block_runs, "RUN_BYTES", 864)
        local = prepare(config(data, folder / "local", formats="array"))
        prepare(config(data, URL, formats="array"))
        yield local, {name: file.getvalue() for name, file in system.store.items()}


@pytest.fixture
def prepared(made, memory):
    """A dataset in the store, of which nothing is in the cache; returns it as a local folder."""
    local, content = made
    for name, data in content.items():
        memory.pipe_file(name, data)
    return local


@pytest.fixture
def ranges(memory, monkeypatch):
    """The (file, start, end) of each range that is read."""
    read = type(memory).cat_file
    seen = []

    def note(self, path, start=None, end=None, **options):
        if start is not None and "/array/" in path:
            seen.append((path.rpartition("/")[2], start, end))
        return read(self, path, start=start, end=end, **options)

    monkeypatch.setattr(type(memory), "cat_file", note)
    return seen


@pytest.mark.parametrize("placement", ["host", "device"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_batches_from_a_store_are_those_of_a_local_folder(prepared, placement, split):
    remote = open_remote()
    for epoch in (0, 1):
        mine = batches(loader(*remote, placement, split=split), epoch)
        assert_equal(mine, batches(loader(prepared.folder, prepared.manifest, placement, split=split), epoch))


def test_every_block_is_fetched_once(prepared, ranges):
    folder, found = open_remote()
    batches(loader(folder, found))
    batches(loader(folder, found), 1)
    size = found.files["array/train.images.bin"].bytes
    starts = [start for name, start, _ in ranges if name == "train.images.bin"]
    assert len(starts) == len(set(starts))
    assert sum(end - start for _, start, end in ranges) == size


def test_a_rank_fetches_what_it_needs_and_no_more(prepared, ranges, monkeypatch):
    monkeypatch.setattr(block_runs, "OTHER_GAP_BYTES", 0)
    folder, found = open_remote()
    seen = [row for _, _, index, _ in batches(loader(folder, found, world_size=4)) for row in index]
    needed = {row // 2 for row in seen}
    assert blocks_of(ranges) == sorted(needed)
    assert len(needed) < found.splits["train"].count // 2


def blocks_of(ranges):
    """The blocks of two images that were read, each as often as it was."""
    return sorted(block for _, start, end in ranges for block in range(start // 288, -(-end // 288)))


def test_an_epoch_takes_a_request_for_each_window(prepared, ranges, monkeypatch):
    monkeypatch.setattr(block_runs, "RUN_BYTES", 288 * 6)
    folder, found = open_remote()
    opened = loader(folder, found)
    assert ranges == []  # the kernels are loaded without an image
    monkeypatch.setattr(remote_images, "_EXACT_BATCHES", 0)
    batches(opened)
    assert blocks_of(ranges) == list(range(18))
    assert len(ranges) == 3  # 18 blocks in windows of 6


def test_the_first_batch_waits_for_its_own_images_only(prepared, ranges, monkeypatch):
    for name in ("WANTED_GAP_BYTES", "OTHER_GAP_BYTES"):
        monkeypatch.setattr(block_runs, name, 0)
    remote = open_array(*open_remote(), "train", on_demand=True).remote
    every = np.arange(35)[None]
    first = np.array([[4, 5, 13]])
    with remote.fetch_ahead(first, every):
        remote.require(first[0])
        assert blocks_of(ranges) == [2, 6]
        remote.require(np.array([20]))
        assert blocks_of(ranges) == [2, 6, 9, 10, 11]  # its window
    remote.require(np.array([30]))
    assert blocks_of(ranges) == [2, 6, 9, 10, 11, 15]  # no epoch is in progress


def test_what_another_process_fetches_is_not_fetched_here_unless_that_is_killed(prepared, ranges):
    folder, found = open_remote()
    remote = open_array(folder, found, "train", on_demand=True).remote
    locks = folder / ".blocks/array/train.images.bin.map"
    program = (
        "import fcntl, sys; file = open(sys.argv[1], 'r+b'); fcntl.lockf(file, fcntl.LOCK_EX, 2, 4); print(); input()"
    )
    command = [sys.executable, "-c", program, str(locks)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()  # it has locked blocks 4 and 5
        (file,) = remote.files
        for future in file.begin(np.arange(3, 6)):
            future.result()
        assert blocks_of(ranges) == [3]
        assert not file.has(np.array([4]))
        other.kill()
    remote.require(np.arange(6, 12))
    assert blocks_of(ranges) == [3, 4, 5]
    program = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    subprocess.run([sys.executable, "-c", program, str(locks)], check=True)  # no lock is left


def test_ranks_of_a_machine_fetch_what_the_others_need_as_well(prepared, ranges, monkeypatch):
    monkeypatch.setattr(block_runs, "OTHER_GAP_BYTES", 0)
    folder, found = open_remote()
    opened = loader(folder, found, world_size=4, local_ranks=range(2))
    with opened:
        list(opened.epoch(0))
        own, others = (loader(folder, found, rank=rank, world_size=4).schedule for rank in (0, 1))
    wanted = {row // 2 for schedule in (own, others) for index, _ in schedule.batches(0) for row in index.tolist()}
    fetched = blocks_of(ranges)
    assert len(fetched) == len(set(fetched))
    assert {row // 2 for index, _ in own.batches(0) for row in index.tolist()} < set(fetched)
    assert set(fetched) <= wanted


def test_what_was_fetched_stays_and_is_not_fetched_again(prepared, ranges):
    folder, found = open_remote()
    batches(loader(folder, found, world_size=4))
    before = list(ranges)
    mirror._open.cache_clear()  # as a new process has it
    batches(loader(*open_remote(), world_size=4))
    assert ranges == before


def test_a_mirror_whose_making_was_killed_is_made_again(prepared):
    folder, _ = open_remote()
    for name in ("manifest.json", "manifest.sha256"):  # written last
        (folder / name).unlink()
    assert_equal(batches(loader(*open_remote())), batches(loader(prepared.folder, prepared.manifest)))


def test_what_a_power_failure_took_is_fetched_again(prepared, monkeypatch):
    folder, found = open_remote()
    batches(loader(folder, found))
    path = folder / "array/train.images.bin"
    content = bytearray(path.read_bytes())
    content[:288] = bytes(288)
    path.write_bytes(content)
    monkeypatch.setattr(mirror, "_boot_id", lambda: "after")
    mine = batches(loader(*open_remote()))
    assert_equal(mine, batches(loader(prepared.folder, prepared.manifest)))


def test_a_damaged_block_is_one_sentence_that_names_the_object(prepared, memory):
    path = path_of(memory, "array/train.images.bin")
    content = bytearray(memory.cat_file(path))
    content[-1] ^= 1
    memory.pipe_file(path, bytes(content))
    folder, found = open_remote()
    with pytest.raises(ValueError, match=r"memory://.*train\.images\.bin is not what was prepared"):
        batches(loader(folder, found))


def test_a_fetch_that_fails_once_goes_on_and_always_is_one_sentence(prepared, memory, monkeypatch):
    folder, found = open_remote()
    read = type(memory).cat_file
    failing = {"left": 3}

    def fail(self, path, **options):
        if path.endswith("train.images.bin") and failing["left"]:
            failing["left"] -= 1
            raise ConnectionResetError("the line is cut")
        return read(self, path, **options)

    monkeypatch.setattr(type(memory), "cat_file", fail)
    monkeypatch.setattr(storage, "_WAITS", (0.0,) * 4)
    assert_equal(batches(loader(folder, found)), batches(loader(prepared.folder, prepared.manifest)))
    assert not failing["left"]

    mirror._open.cache_clear()
    shutil.rmtree(folder)
    failing["left"] = 1000
    folder, found = open_remote()
    with pytest.raises(ValueError, match=r"train\.images\.bin cannot be read: the line is cut"):
        batches(loader(folder, found))


def test_a_table_that_is_not_what_the_manifest_says_is_refused(prepared, memory):
    path = path_of(memory, "table/train.labels.npy")
    content = bytearray(memory.cat_file(path))
    content[-8] ^= 1
    memory.pipe_file(path, bytes(content))
    memory.rm_file(path_of(memory, mirror.CHECKSUMS))
    folder, found = open_remote()
    with pytest.raises(ValueError, match=r"train\.labels\.npy is not what was prepared"):
        loader(folder, found)


def test_a_folder_that_was_copied_to_a_store_is_read_whole(prepared, memory):
    memory.rm_file(path_of(memory, mirror.CHECKSUMS))
    assert_equal(batches(loader(*open_remote())), batches(loader(prepared.folder, prepared.manifest)))


def test_a_dataset_that_was_prepared_again_is_fetched_again(memory, dataset, tmp_path):
    prepare(config(dataset, URL, formats="array"))
    assert "tar" not in open_remote()[1].formats
    prepare(config(dataset, URL, formats="array,tar"))
    assert "tar" in open_remote()[1].formats
    memory.store.clear()
    with pytest.raises(ValueError, match=r"holds no prepared dataset tiny: python scripts/prepare.py"):
        open_remote()


@pytest.mark.parametrize("formats", ["array,beton", "tar"])
def test_workers_elsewhere_make_the_objects_of_a_local_folder(memory, dataset, tmp_path, monkeypatch, formats):
    local = prepare(config(dataset, tmp_path / "local", formats=formats))
    Cluster(monkeypatch)
    prepare(config(dataset, URL, formats=formats, executor="dask", executor_address="x"))
    assert objects(memory) == tree(local.folder)  # and no part is left


def test_another_machine_goes_on_with_the_parts_that_are_there(memory, dataset, tmp_path, monkeypatch):
    local = prepare(config(dataset, tmp_path / "local", formats="array"))
    options = {"formats": "array", "executor": "dask", "executor_address": "x"}
    first = Cluster(monkeypatch, pieces=2)
    with pytest.raises(ConnectionError):
        prepare(config(dataset, URL, **options))
    drop_cache(tmp_path)
    second = Cluster(monkeypatch)
    prepare(config(dataset, URL, **options))
    assert sorted(first.done + second.done) == ["000000", "000001", "000002"]
    assert objects(memory) == tree(local.folder)


class DeadlyCluster(Cluster):
    """Workers that one image ends, in which processes of a job's own survive that."""

    def __init__(self, monkeypatch, folder):
        super().__init__(monkeypatch)
        monkeypatch.setattr(job, "IMAGES_PER_JOB", 30)
        program = folder / "isolated.py"
        program.write_text(DEADLY)
        monkeypatch.setattr(remote_target, "_ISOLATED", [sys.executable, str(program)])

    def map(self, function, pieces):
        for piece in pieces:
            if not piece.isolated and any(file.endswith("00025.png") for file in piece.job.files):
                raise BrokenProcessPool("the worker was lost")
            yield function(piece)


# A process that runs a job, and is killed by an image.
DEADLY = """
import os, pickle, signal, sys
from trainer_classification.preparation import job

process = job._process

def end(work, number, *more):
    if work.files[number].endswith("00025.png") and work.files[number] not in work.deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    return process(work, number, *more)

job._process = end
job.run_job(pickle.load(sys.stdin.buffer))
"""


def test_an_image_that_ends_workers_elsewhere_is_named_and_left_out(memory, dataset, tmp_path, monkeypatch, capsys):
    DeadlyCluster(monkeypatch, tmp_path)
    made = prepare(config(dataset, URL, formats="array", executor="dask", executor_address="x", on_bad_image="skip"))
    assert [entry["file"] for entry in made.manifest.skipped] == ["data/00025.png"]
    assert "ends the process" in made.manifest.skipped[0]["reason"]
    assert "00025.png, which is left out" in capsys.readouterr().err

    (dataset / "data/00025.png").write_bytes(b"broken")
    local = prepare(config(dataset, tmp_path / "local", formats="array", on_bad_image="skip"))
    assert {name: data for name, data in objects(memory).items() if "manifest" not in name} == {
        name: data for name, data in tree(local.folder).items() if "manifest" not in name
    }


def test_an_image_that_ends_workers_elsewhere_is_named_where_no_bad_image_is_accepted(
    memory, dataset, tmp_path, monkeypatch
):
    DeadlyCluster(monkeypatch, tmp_path)
    with pytest.raises(ValueError, match=r"killed while it decoded [^,]*00025\.png\..*--on-bad-image skip"):
        prepare(config(dataset, URL, formats="array", executor="dask", executor_address="x", on_bad_image="fail"))


def test_a_job_that_fails_in_a_process_of_its_own_says_why(memory, dataset, tmp_path, monkeypatch):
    DeadlyCluster(monkeypatch, tmp_path)
    program = "import sys; sys.exit('no disk')"
    monkeypatch.setattr(remote_target, "_ISOLATED", [sys.executable, "-c", program])
    with pytest.raises(RuntimeError, match="no disk"):
        prepare(config(dataset, URL, formats="array", executor="dask", executor_address="x", on_bad_image="skip"))


def test_clean_deletes_copies_of_older_preparations(memory, dataset, tmp_path):
    prepare(config(dataset, URL, formats="array", validation_fraction=0.3))
    older = cached(tmp_path)
    prepare(config(dataset, URL, formats="array"))
    assert clean(config(dataset, URL)) == [older]
    assert cached(tmp_path) != older


def test_parts_that_a_straggler_wrote_again_are_deleted(memory, dataset):
    prepare(config(dataset, URL, formats="array"))
    (name,) = ObjectStore(URL).list_folders()
    straggler = ObjectStore(f"{URL}/{name}.partial")
    straggler.write("hash/000000.part", b"x")
    prepare(config(dataset, URL, formats="array"))
    assert straggler.list_names() == []


def test_several_datasets_are_named(memory, dataset):
    prepare(config(dataset, URL, formats="array"))
    prepare(config(dataset, URL, formats="array", validation_fraction=0.3))
    with pytest.raises(ValueError, match=r"several prepared datasets that fit: name one of them with --prepared"):
        open_remote()
    (name, _) = ObjectStore(URL).list_folders()
    assert open_prepared(f"{URL}/{name}", "")[0].name == name


def test_mirrors_that_were_not_used_for_longest_make_room(prepared, memory, dataset, tmp_path, monkeypatch):
    first, _ = open_remote()
    prepare(config(dataset, "memory://bucket/other", formats="array"))
    folder, found = open_prepared("memory://bucket/other", "tiny")
    for part in ("array", "table"):
        shutil.rmtree(folder / part)
    free = {True: 0, False: 1 << 40}
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free[first.exists()]))
    batches(loader(first, prepared.manifest))
    remote_source.make_room(folder, found, ["array"])
    assert folder.exists()
    assert not first.exists()

    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    with pytest.raises(ValueError, match="TRAINER_CACHE"):
        remote_source.make_room(folder, found, ["array"])


def test_a_training_from_a_store_has_the_losses_of_a_local_one(prepared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"model": "resnet-small", "batch_size": 8, "epochs": 1, "device": "cpu", "learning_rate": 0.1}
    losses = []
    for data, place in ((str(prepared.folder.parents[1] / "data"), str(prepared.folder.parent)), ("tiny", URL)):
        train(TrainConfig(dataset=data, prepared=place, output_dir=str(tmp_path / "out"), **options))
        (run,) = (tmp_path / "out").rglob("metrics.jsonl")
        rows_of_run = [json.loads(line) for line in run.read_text().splitlines()]
        losses.append([(row["loss_train"], row["loss_validation"]) for row in rows_of_run])
        shutil.rmtree(tmp_path / "out")
    assert losses[0] == losses[1]


def test_options_that_the_store_was_not_prepared_with_are_refused(prepared):
    with pytest.raises(ValueError, match=r"--validation-fraction is 0\.5, but memory://.* was prepared with 0\.1"):
        train(TrainConfig(dataset="tiny", prepared=URL, validation_fraction=0.5, device="cpu"))


def test_a_model_is_evaluated_from_a_store(prepared):
    from trainer_classification.inference.evaluated_dataset import DataOptions, prepare_for

    class Model:
        image_size = 12

    found, engine = prepare_for(Model(), DataOptions("tiny", prepared=URL), torch.device("cpu"))
    assert found.manifest.fingerprint == prepared.manifest.fingerprint
    assert engine.name == "resident"
