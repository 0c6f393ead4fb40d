"""Deliver an epoch with nothing in the local cache and then one with all of it, from object storage."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from harness import other_libraries, registry
from harness.object_server import BUCKET, read_counts
from harness.own_loaders import Engine
from harness.resources import usage
from harness.workload import Workload, as_arguments
from trainer_classification.data import manifest, mirror
from trainer_classification.data.sparse_file import hash_blocks
from trainer_classification.preparation.remote_source import CACHE_VARIABLE, open_prepared

OURS = {"resident": "array", "dali": "tar"}  # the format that each reads
PEERS = {"litdata": "0.2.76", "streaming": "0.13.0"}  # the versions of the results
_PREPARED = "prepared"
# Imported before the clock starts.
_MODULES = {
    "resident": ("numba", "s3fs"),
    "dali": ("numba", "s3fs", "nvidia.dali.plugin.pytorch"),
    "litdata": ("litdata", "obstore", "boto3", "torchvision"),
    "streaming": ("streaming", "boto3", "torchvision"),
}


def publish(workload: Workload) -> None:
    """Make the objects that `prepare.py --out s3://...` makes of a prepared dataset."""
    source = Path(workload.prepared)
    folder = Path(workload.scratch) / _PREPARED
    made = folder / manifest.FILE_NAME
    if made.is_file() and made.read_bytes() == (source / manifest.FILE_NAME).read_bytes():
        return
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder, copy_function=os.link)
    files = workload.manifest.files
    blocks = {name: mirror.block_bytes(name, workload.manifest.image_bytes) for name in files}
    sums = {name: hash_blocks((source / name).read_bytes(), blocks[name]) for name in files}
    (folder / mirror.CHECKSUMS).write_bytes(mirror.pack_checksums(blocks, sums))


def stored_megabytes(name: str, workload: Workload) -> float:
    """Return the size of what a side reads, in 1e6 bytes."""
    if name in OURS:
        prefixes = (f"{OURS[name]}/train", "table/train")
        sizes = [
            info.bytes
            for path, info in workload.manifest.files.items()
            if path.startswith(prefixes)
        ]
        return sum(sizes) / 1e6
    return sum(path.stat().st_size for path in _peer_folder(name, workload).rglob("*")) / 1e6


def _peer_folder(name: str, workload: Workload) -> Path:
    return workload.folder(name) / "data"


def _environment(endpoint: str, cache: Path) -> dict[str, str]:
    """Return the variables with which every side reads from the server, and keeps what it fetches in a folder."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "S3_ENDPOINT_URL": endpoint,  # Streaming's own
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
        CACHE_VARIABLE: str(cache),
    }


def open_side(name: str, workload: Workload, cache: Path) -> Any:
    """Open a side over the objects of the server, with a folder for what it fetches."""
    if name in OURS:
        folder, _ = open_prepared(f"s3://{BUCKET}/{_PREPARED}", "")
        return Engine(name, dataclasses.replace(workload, prepared=str(folder)))
    if name == "litdata":
        from litdata.streaming import downloader

        # Its client refuses http://, whatever AWS_ALLOW_HTTP says.
        downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True
    folder = _peer_folder(name, workload).relative_to(workload.scratch)
    open_peer = getattr(other_libraries, name)
    return open_peer(workload, f"s3://{BUCKET}/{folder}", str(cache / "peer"))


def time_epochs(name: str, workload: Workload, cache: Path, endpoint: str) -> dict[str, Any]:
    """Time an epoch with an empty cache, the opening included, and the next one."""
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True)
    figures: dict[str, Any] = {}
    started = time.perf_counter()
    side = open_side(name, workload, cache)
    for number, kind in enumerate(("cold", "warm")):
        before = read_counts(endpoint)
        if kind == "cold":
            before = dict.fromkeys(before, 0)  # what opening took
        else:
            started = time.perf_counter()
        cpu = usage(os.getpid()).cpu_seconds
        figures[kind] = _run_epoch(side, number, workload, started)
        after = read_counts(endpoint)
        figures[kind] |= {key: after[key] - before[key] for key in after}
        figures[kind]["cpu_seconds"] = usage(os.getpid()).cpu_seconds - cpu
    side.close()
    shutil.rmtree(cache)
    return figures


def _run_epoch(side: Any, number: int, workload: Workload, started: float) -> dict[str, Any]:
    labels = []
    first = 0.0
    for batch in side.epoch(number):
        first = first or time.perf_counter() - started
        labels.append(batch.labels.numpy().copy())
    seconds = time.perf_counter() - started
    _check_labels(np.concatenate(labels), workload)
    return {"images": sum(map(len, labels)), "seconds": seconds, "first": first}


def _check_labels(labels: Any, workload: Workload) -> None:
    """Check that all images came once, but for those that do not fill the last batch."""
    classes = len(workload.manifest.class_names)
    left = np.bincount(workload.labels, minlength=classes) - np.bincount(labels, minlength=classes)
    assert (left >= 0).all(), "an image came twice"
    assert left.sum() <= workload.count % workload.batch_size, f"{left.sum()} images are missing"


def main(arguments: str) -> None:
    """Write what a side reads, or time it, and print the figures as the last line."""
    details = json.loads(arguments)
    name = details["name"]
    workload = Workload(**details["workload"])
    if not details["endpoint"]:
        registry.write(name, workload)
        return
    for module in _MODULES[name]:
        importlib.import_module(module)
    figures = time_epochs(name, workload, Path(details["cache"]), details["endpoint"])
    print(json.dumps(figures), flush=True)


def run(name: str, workload: Workload, cache: Path, endpoint: str = "") -> dict[str, Any]:
    """Run `main` in a process of its own, and return the figures.

    Args:
        name: of the side.
        workload: what it is given.
        cache: folder for what it fetches.
        endpoint: of the server; "": it only writes what it reads.

    Raises:
        RuntimeError: the process failed.
    """
    details = {"name": name, "cache": str(cache), "endpoint": endpoint}
    arguments = json.dumps(details | {"workload": as_arguments(workload)})
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "harness.storage_timing", arguments],
            cwd=Path(__file__).parents[1],
            env=os.environ | _environment(endpoint, cache) | {"TMPDIR": folder},
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) if endpoint else {}
    return figures


if __name__ == "__main__":
    main(sys.argv[1])
