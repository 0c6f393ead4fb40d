"""Prepare through Dask and Ray makes the bytes that it makes on one machine, whatever happens to the workers."""

import importlib.util
import os
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest

from helpers import rows, tree, write_dataset
from runner import ROOT

pytestmark = pytest.mark.slow
needs_dask = pytest.mark.skipif(not importlib.util.find_spec("distributed"), reason="the extra `dask` is not installed")
needs_ray = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="the extra `ray` is not installed")
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
# Ends the worker that finds the file `deadly` when it begins an image, once.
PRELOAD = """
import os, pathlib, signal
from trainer_classification.preparation import job

process = getattr(job, "whole_process", job._process)  # Dask runs this file twice
job.whole_process = process

def end_once(work, number, writers, result):
    if number == 250:
        try:
            pathlib.Path("deadly").unlink()
        except FileNotFoundError:
            pass
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    return process(work, number, writers, result)

job._process = end_once
"""


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


@contextmanager
def dask_cluster(folder, workers=2):
    """Yield the address of a scheduler on loopback that has two workers."""
    (folder / "preload.py").write_text(PRELOAD)
    started = []

    def start(role, *options):
        command = [sys.executable, "-m", "dask", role, *options]
        started.append(subprocess.Popen(command, cwd=folder, env=environment(), **QUIET))

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    try:
        start("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
        for _ in range(workers):
            start("worker", address, "--nthreads", "1", "--no-nanny", "--preload", "preload.py")
        from distributed import Client

        with Client(address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=60)
        yield address
    finally:
        for process in started:
            process.kill()
            process.wait()


@needs_dask
def test_dask_with_a_worker_that_is_killed_makes_the_bytes_of_one_machine(dataset):
    (dataset / "deadly").touch()
    with dask_cluster(dataset) as address:
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
