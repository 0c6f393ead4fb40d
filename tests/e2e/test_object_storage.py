"""Prepare into S3 through Dask and Ray, whose workers see only dataset and objects, and train from there."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from helpers import rows, tree, write_dataset
from object_server import needs_s3, serve_objects
from remote_workers import dask_cluster, end_once, needs_dask, needs_ray
from runner import ROOT

pytestmark = [pytest.mark.slow, needs_s3]
URL = "s3://bucket/prepared"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """2,200 images, which are five jobs and three shards, and what prepare makes of them in a local folder."""
    folder = tmp_path_factory.mktemp("objects")
    write_dataset(folder / "data", rows(2000) + rows(200, "test", seed=9000), ["a", "b"])
    done = prepare(folder, "local", {}, "--formats", "array,tar")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def store(tmp_path):
    """The environment of an S3 server."""
    with serve_objects(tmp_path / "server.log") as environment:
        yield environment | {"TRAINER_CACHE": str(tmp_path / "cache")}


def prepare(folder, prepared, environment, *options):
    command = [sys.executable, str(ROOT / "scripts/prepare.py"), "--dataset", str(folder / "data"), "--out", prepared]
    return subprocess.run(
        [*command, *options], cwd=folder, capture_output=True, text=True, env=whole(environment), timeout=300
    )


def whole(environment):
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | environment


def objects(folder, environment):
    """Fetch all objects below the URL, by name without the dataset's, but for the checksums of blocks."""
    program = "import fsspec, sys; fs = fsspec.filesystem('s3');fs.get('bucket/prepared/', sys.argv[1], recursive=True)"
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True, env=whole(environment))
    (prepared,) = folder.iterdir()  # parts would be beside it
    found = tree(prepared)
    found.pop("checksums.npz")
    return found


def local(dataset):
    (prepared,) = (dataset / "local").glob("tiny-12px-*")
    return tree(prepared)


@needs_dask
@pytest.mark.parametrize("deadly", ["deadly", "deadly-shard"])
def test_dask_with_a_worker_that_is_killed_makes_the_objects_of_one_machine(dataset, store, tmp_path, deadly):
    nowhere = tmp_path / "nowhere"  # workers have a disk of their own
    nowhere.mkdir()
    (nowhere / deadly).touch()
    with dask_cluster(nowhere, whole(store)) as address:
        options = ("--formats", "array,tar", "--executor", "dask", "--executor-address", address)
        done = prepare(dataset, URL, store, *options)
    assert done.returncode == 0, done.stderr
    assert not (nowhere / deadly).exists(), "a worker was killed"
    assert objects(tmp_path / "fetched", store) == local(dataset)
    assert not list((tmp_path / "cache").rglob("*.tar")), "no shard came here"

    again = prepare(dataset, URL, store, "--formats", "array,tar")
    assert f"prepared already in {URL}" in again.stderr


# Python runs this before a program: an image ends the process that decodes it.
DEADLY_IMAGE = """
import os, signal
from trainer_classification.preparation import job

process = job._process

def end(work, number, *more):
    if work.files[number].endswith("00250.png") and work.files[number] not in work.deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    return process(work, number, *more)

job._process = end
"""


@needs_dask
def test_an_image_that_ends_workers_of_dask_is_named_and_left_out(dataset, store, tmp_path):
    folder = tmp_path / "workers"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(DEADLY_IMAGE)
    environment = whole(store)
    environment["PYTHONPATH"] = f"{folder}{os.pathsep}{environment['PYTHONPATH']}"
    options = ("--formats", "array,tar", "--on-bad-image", "skip")
    with dask_cluster(folder, environment, restart=True) as address:
        done = prepare(dataset, URL, store, *options, "--executor", "dask", "--executor-address", address)
    assert done.returncode == 0, done.stderr
    assert "To find the image, each further job has a process of its own" in done.stderr
    assert "00250.png, which is left out" in done.stderr

    shutil.copytree(dataset / "data", tmp_path / "data")
    (tmp_path / "data/data/00250.png").write_bytes(b"broken")
    assert prepare(tmp_path, "local", {}, *options).returncode == 0
    found, expected = objects(tmp_path / "fetched", store), local(tmp_path)
    (skipped,) = json.loads(found["manifest.json"])["skipped"]
    assert skipped["file"] == "data/00250.png"
    assert skipped["reason"] == "ends the process that decodes it"
    for files in (found, expected):
        del files["manifest.json"], files["manifest.sha256"]  # which say why
    assert found == expected


# Python runs this before a program: it is killed when the store is to copy its second shard.
KILL_AT_COPY = """
import itertools, os, signal
from trainer_classification.storage import ObjectStore

copy = ObjectStore.copy
calls = itertools.count(1)

def copy_or_end(*arguments):
    if next(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    copy(*arguments)

ObjectStore.copy = copy_or_end
"""


@needs_dask
def test_prepare_killed_while_shards_are_published_assembles_none_again(dataset, store, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(KILL_AT_COPY)
    killed = store | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{whole({})['PYTHONPATH']}"}
    marks = []
    with dask_cluster(tmp_path, whole(store)) as address:
        options = ("--formats", "array,tar", "--executor", "dask", "--executor-address", address)
        for _ in range(2):
            assert prepare(dataset, URL, killed, *options).returncode == -9
            marks.append([name for name in names(store) if name.endswith(".made")])
        done = prepare(dataset, URL, store, *options)
    assert done.returncode == 0, done.stderr
    assert len(marks[0]) == 3
    assert marks[1] == marks[0]
    assert objects(tmp_path / "fetched", store) == local(dataset)


def names(environment):
    """Names of all objects in the bucket."""
    program = "import fsspec; print(*fsspec.filesystem('s3').find('bucket'), sep=chr(10))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=whole(environment))
    return done.stdout.split()


@needs_ray
def test_ray_with_a_worker_that_is_killed_makes_the_objects_of_one_machine(dataset, store, tmp_path):
    (tmp_path / "deadly-shard").touch()
    (tmp_path / "sitecustomize.py").write_text(end_once(tmp_path))  # which workers run as well
    patient = store | {"RAY_raylet_start_wait_time_s": "240"}
    patient["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{whole({})['PYTHONPATH']}"
    options = ("--formats", "array,tar", "--executor", "ray", "--executor-address", "local")
    done = prepare(dataset, URL, patient, *options)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "deadly-shard").exists(), "a worker was killed"
    assert objects(tmp_path / "fetched", store) == local(dataset)


def train(folder, prepared, environment, output, *options):
    command = [sys.executable, str(ROOT / "scripts/train.py"), "--prepared", prepared, "--output-dir", str(output)]
    fixed = ["--model", "resnet-small", "--batch-size", "64", "--epochs", "2", "--learning-rate", "0.1"]
    return subprocess.run(
        [*command, "--device", "cpu", *fixed, *options],
        cwd=folder,
        capture_output=True,
        text=True,
        env=whole(environment),
        timeout=300,
    )


def losses(output):
    (metrics,) = output.rglob("metrics.jsonl")
    return [json.loads(line)["loss_train"] for line in metrics.read_text().splitlines()]


def test_training_needs_the_objects_alone_and_has_the_losses_of_a_local_folder(dataset, store, tmp_path):
    assert prepare(dataset, URL, store, "--formats", "array").returncode == 0
    here = train(dataset, "local", {}, tmp_path / "here", "--dataset", "data", "--processes", "2")
    assert here.returncode == 0, here.stderr

    elsewhere = store | {"TRAINER_CACHE": str(tmp_path / "another machine")}
    there = train(tmp_path, URL, elsewhere, tmp_path / "there", "--processes", "2")
    assert there.returncode == 0, there.stderr
    assert losses(tmp_path / "there") == losses(tmp_path / "here")

    (model,) = (tmp_path / "there").rglob("model.pth")
    command = [sys.executable, str(ROOT / "scripts/evaluate.py"), "--model", str(model), "--device", "cpu"]
    done = subprocess.run(
        [*command, "--prepared", URL], cwd=tmp_path, capture_output=True, text=True, env=whole(elsewhere)
    )
    assert done.returncode == 0, done.stderr
    assert "tiny test: 200 images" in done.stdout


# Python runs this before a program: blocks are small, so that there are many, and each request is noted.
NOTE_READS = """
import os
from trainer_classification.data import block_runs, mirror
from trainer_classification.storage import ObjectStore

mirror._BLOCK_BYTES = 1440  # ten images
block_runs.RUN_BYTES = 4 * 1440
read = ObjectStore.read

def note(store, name, start=None, end=None):
    if name == "array/train.images.bin":
        with open(os.environ["READS"], "a") as file:  # one write, at the end of the file
            file.write(f"{os.getpid()} {start} {end}\\n")
    return read(store, name, start, end)

ObjectStore.read = note
"""


def test_two_ranks_of_one_machine_fetch_no_block_twice(dataset, store, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(NOTE_READS)
    small = store | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{whole({})['PYTHONPATH']}"}
    assert prepare(dataset, URL, small, "--formats", "array").returncode == 0
    elsewhere = small | {"TRAINER_CACHE": str(tmp_path / "another machine"), "READS": str(tmp_path / "reads")}
    done = train(tmp_path, URL, elsewhere, tmp_path / "out", "--processes", "2")
    assert done.returncode == 0, done.stderr

    reads = [tuple(map(int, line.split())) for line in (tmp_path / "reads").read_text().splitlines()]
    assert len({process for process, _, _ in reads}) == 2
    blocks = [block for _, start, end in reads for block in range(start // 1440, -(-end // 1440))]
    (made,) = (dataset / "local").glob("tiny-12px-*")
    size = (made / "array/train.images.bin").stat().st_size
    assert sorted(blocks) == list(range(-(-size // 1440)))


def test_a_store_that_is_gone_is_one_sentence(dataset, store, tmp_path):
    gone = store | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    done = train(tmp_path, URL, gone, tmp_path / "out")
    assert done.returncode == 2
    assert f"{URL}/manifest.json cannot be read: " in done.stderr
    assert "Traceback" not in done.stderr
