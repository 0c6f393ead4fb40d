"""Prepare through Dask and Ray makes the bytes that it makes on one machine, whatever happens to the workers."""

import os
import subprocess
import sys

import pytest

from helpers import rows, tree, write_dataset
from remote_workers import dask_cluster, needs_dask, needs_ray
from runner import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """2,200 images, which are five jobs, and what prepare makes of them here."""
    folder = tmp_path_factory.mktemp("remote")
    write_dataset(folder / "data", rows(2000) + rows(200, "test", seed=9000), ["a", "b"])
    done = prepare(folder, "local")
    assert done.returncode == 0, done.stderr
    return folder


def prepare(folder, name, *options):
    command = [sys.executable, str(ROOT / "scripts/prepare.py"), "--dataset", "data", "--prepared", name, *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment())


def shards(folder):
    (prepared,) = folder.glob("tiny-12px-*")
    return tree(prepared)


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT / "src")}


@needs_dask
def test_dask_with_a_worker_that_is_killed_makes_the_bytes_of_one_machine(dataset):
    (dataset / "deadly").touch()
    with dask_cluster(dataset, environment()) as address:
        done = prepare(dataset, "dask", "--executor", "dask", "--executor-address", address)
    assert done.returncode == 0, done.stderr
    assert not (dataset / "deadly").exists(), "a worker was killed"
    assert shards(dataset / "dask") == shards(dataset / "local")


@needs_ray
def test_ray_makes_the_bytes_of_one_machine(dataset):
    done = prepare(dataset, "ray", "--executor", "ray", "--executor-address", "local")
    assert done.returncode == 0, done.stderr
    assert shards(dataset / "ray") == shards(dataset / "local")


def test_a_cluster_without_an_address_is_one_sentence(dataset):
    done = prepare(dataset, "nowhere", "--executor", "ray")
    assert done.returncode == 2
    assert "--executor ray needs --executor-address" in done.stderr


@needs_dask
def test_a_scheduler_that_does_not_answer_is_one_sentence(dataset):
    done = prepare(dataset, "none", "--executor", "dask", "--executor-address", "tcp://127.0.0.1:9")
    assert done.returncode == 2
    assert "No Dask scheduler answers at tcp://127.0.0.1:9: start one with `dask scheduler`" in done.stderr
    assert "Traceback" not in done.stderr
