"""Prepare into S3 through Dask and Ray, whose workers see only dataset and objects, and train from there."""

import json
import os
import subprocess
import sys

import pytest

from helpers import rows, tree, write_dataset
from object_server import needs_s3, serve_objects
from remote_workers import dask_cluster, needs_dask, needs_ray
from runner import ROOT

pytestmark = [pytest.mark.slow, needs_s3]
URL = "s3://bucket/prepared"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """2,200 images, which are five jobs, and what prepare makes of them in a local folder."""
    folder = tmp_path_factory.mktemp("objects")
    write_dataset(folder / "data", rows(2000) + rows(200, "test", seed=9000), ["a", "b"])
    done = prepare(folder, "local", {})
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
def test_dask_with_a_worker_that_is_killed_makes_the_objects_of_one_machine(dataset, store, tmp_path):
    nowhere = tmp_path / "nowhere"  # workers have a disk of their own
    nowhere.mkdir()
    (nowhere / "deadly").touch()
    with dask_cluster(nowhere, whole(store)) as address:
        done = prepare(dataset, URL, store, "--executor", "dask", "--executor-address", address)
    assert done.returncode == 0, done.stderr
    assert not (nowhere / "deadly").exists(), "a worker was killed"
    assert objects(tmp_path / "fetched", store) == local(dataset)

    again = prepare(dataset, URL, store)
    assert f"prepared already in {URL}" in again.stderr


@needs_ray
def test_ray_makes_the_objects_of_one_machine(dataset, store, tmp_path):
    patient = store | {"RAY_raylet_start_wait_time_s": "240"}
    done = prepare(dataset, URL, patient, "--executor", "ray", "--executor-address", "local")
    assert done.returncode == 0, done.stderr
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


def test_a_store_that_is_gone_is_one_sentence(dataset, store, tmp_path):
    gone = store | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    done = train(tmp_path, URL, gone, tmp_path / "out")
    assert done.returncode == 2
    assert f"{URL}/manifest.json cannot be read: " in done.stderr
    assert "Traceback" not in done.stderr
