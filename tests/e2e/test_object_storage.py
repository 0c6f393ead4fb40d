"""Prepare into S3 through Dask and Ray, whose workers see only dataset and objects, and train from there."""

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
    done = prepare(dataset, URL, store, "--executor", "ray", "--executor-address", "local")
    assert done.returncode == 0, done.stderr
    assert objects(tmp_path / "fetched", store) == local(dataset)
