"""A Dask cluster on loopback, for tests, in which one worker can be killed."""

import importlib.util
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest

needs_dask = pytest.mark.skipif(not importlib.util.find_spec("distributed"), reason="the extra `dask` is not installed")
needs_ray = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="the extra `ray` is not installed")
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
# Ends the worker that finds the file `deadly` when it begins an image, or `deadly-shard` when it has written a shard,
# once each.
_END_ONCE = """
import os, pathlib, signal
from trainer_classification.preparation import job
from trainer_classification.storage import ObjectStore

process = getattr(job, "whole_process", job._process)  # Dask runs this file twice
job.whole_process = process
write = getattr(ObjectStore, "whole_write", ObjectStore.write)
ObjectStore.whole_write = write

def end_at(name):
    try:
        pathlib.Path(FOLDER, name).unlink()
    except FileNotFoundError:
        pass
    else:
        os.kill(os.getpid(), signal.SIGKILL)

def process_or_end(work, number, writers, result):
    if number == 250:
        end_at("deadly")
    return process(work, number, writers, result)

def write_or_end(store, name, content):
    if name.endswith(".made"):
        end_at("deadly-shard")
    write(store, name, content)

job._process = process_or_end
ObjectStore.write = write_or_end
"""


def end_once(folder):
    """Return a program that workers run first; it lets files in a folder end one of them."""
    return f"FOLDER = {str(folder)!r}" + _END_ONCE


@contextmanager
def dask_cluster(folder, environment, workers=2, restart=False):
    """Yield the address of a scheduler on loopback that has two workers.

    Args:
        folder: that they run in; the first worker to begin image 250 of a job while a file `deadly` is there takes it
            away and is killed; so the first one that has written a shard while a file `deadly-shard` is there.
        environment: of their processes.
        workers: their number.
        restart: start another worker for each that is killed.
    """
    (folder / "preload.py").write_text(end_once(folder))
    started = []

    def start(role, *options):
        command = [sys.executable, "-m", "dask", role, *options]
        started.append(subprocess.Popen(command, cwd=folder, env=environment, **QUIET))

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    nanny = "--nanny" if restart else "--no-nanny"
    try:
        start("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
        for _ in range(workers):
            start("worker", address, "--nthreads", "1", nanny, "--preload", "preload.py")
        from distributed import Client

        with Client(address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=60)
        yield address
    finally:
        for process in started:
            process.kill()
            process.wait()
