"""Prepare to S3 and train from it, killed at given calls: the same command ends as if it had not been."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from helpers import rows, tree, write_dataset
from object_server import needs_s3, serve_objects
from runner import ROOT
from trainer_classification.data import mirror, sparse_file

pytestmark = [pytest.mark.slow, needs_s3]
URL = "s3://bucket/prepared"
# Python runs this before a program. It kills its process at a call of a method, and makes blocks small, so that there
# are many.
CUSTOMIZE = """
import importlib, itertools, os, signal
from trainer_classification.data import block_runs, mirror

mirror._BLOCK_BYTES = 4096
block_runs.RUN_BYTES = 8192
kill_at = os.environ.pop("KILL_AT", "")
if kill_at:
    module, kind, method, number = kill_at.split(":")
    owner = getattr(importlib.import_module("trainer_classification." + module), kind)
    whole = getattr(owner, method)
    calls = itertools.count(1)

    def call(*arguments, **options):
        if next(calls) == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*arguments, **options)

    setattr(owner, method, call)
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    write_dataset(folder / "data", rows(600) + rows(100, "test", seed=9000), ["a", "b"])
    (folder / "customize").mkdir()
    (folder / "customize/sitecustomize.py").write_text(CUSTOMIZE)
    return folder


@pytest.fixture
def run(dataset, tmp_path):
    """Run a script in an environment with an S3 server, and return its exit code and stderr."""
    with serve_objects(tmp_path / "server.log") as environment:
        paths = [str(dataset / "customize"), str(ROOT / "src")]
        environment = os.environ | environment
        environment |= {"PYTHONPATH": os.pathsep.join(paths), "TRAINER_CACHE": str(tmp_path / "cache")}

        def run(script, *options, kill_at="", **variables):
            done = subprocess.run(
                [sys.executable, str(ROOT / "scripts" / script), *map(str, options)],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                env=environment | {"KILL_AT": kill_at} | variables,
                timeout=300,
            )
            assert done.returncode == (-9 if kill_at else 0), done.stderr
            return done.stderr

        def fetch():
            """Return all objects below the URL by name."""
            shutil.rmtree(tmp_path / "fetched", ignore_errors=True)
            get = f"store.get('bucket/prepared/', '{tmp_path}/fetched', recursive=True)"
            program = f"import fsspec; store = fsspec.filesystem('s3'); {get}"
            subprocess.run([sys.executable, "-c", program], check=True, env=environment)
            (prepared,) = (tmp_path / "fetched").iterdir()
            return tree(prepared)

        run.fetch = fetch
        yield run


def test_prepare_killed_while_it_uploads_leaves_no_manifest_and_then_ends_with_the_same_bytes(dataset, run, tmp_path):
    command = ("prepare.py", "--dataset", dataset / "data", "--formats", "array,tar", "--out")
    run(*command, tmp_path / "local")
    (local,) = (tmp_path / "local").glob("tiny-*")
    expected = tree(local)

    for kill_at in ("ObjectStore:upload:12", "ObjectStore:write:1", "ObjectStore:write:3"):
        run(*command, URL, kill_at=f"storage:{kill_at}")
        assert "manifest.json" not in run.fetch(), kill_at
    assert "is prepared in" in run(*command, URL)
    found = run.fetch()
    assert set(found) - set(expected) == {"checksums.npz"}
    assert {name: found[name] for name in expected} == expected

    run(*command, URL, "--force", kill_at="storage:ObjectStore:upload:2")
    assert "manifest.json" not in run.fetch(), "some objects are replaced, some not yet"
    run(*command, URL)
    assert run.fetch() == found


def weights(output):
    (model,) = output.rglob("model.pth")
    return torch.load(model, weights_only=True)["state"]["model"]


def check_blocks(cache):
    """Check that every block which counts as fetched is what was prepared, and return their number."""
    total = 0
    for checksums in cache.rglob("checksums"):
        folder = checksums.parents[1]
        blocks, sums = mirror.unpack_checksums(checksums.read_bytes())
        for name, size in blocks.items():
            state = folder / ".blocks" / f"{name}.map"
            if not state.is_file():
                continue
            here = np.fromfile(state, np.uint8) == sparse_file.HERE
            found = sparse_file.hash_blocks((folder / name).read_bytes(), size)
            assert (found == sums[name])[here].all(), name
            total += int(here.sum())
    return total


def test_training_killed_over_objects_and_resumed_has_the_weights_of_a_straight_run(dataset, run, tmp_path):
    run("prepare.py", "--dataset", dataset / "data", "--formats", "array", "--out", URL)
    options = ("train.py", "--prepared", URL, "--device", "cpu", "--model", "resnet-small", "--batch-size", "32")
    options += ("--epochs", "2", "--learning-rate", "0.1", "--resume", "auto")
    run(*options, "--output-dir", tmp_path / "straight", TRAINER_CACHE=str(tmp_path / "other"))

    fetched = []
    killed = (*options, "--output-dir", tmp_path / "killed")
    # While blocks of the first epoch come, and while the second epoch goes on from last.pth.
    kills = ("storage:ObjectStore:read:12", "training.step:Step:__call__:5", "training.step:Step:__call__:25")
    for kill_at in kills:
        run(*killed, kill_at=kill_at, TRAINER_CACHE=str(tmp_path / "mine"))
        fetched.append(check_blocks(tmp_path / "mine"))
    assert fetched == sorted(fetched), "what was fetched is kept"
    assert 0 < fetched[0] < fetched[-1]
    assert "Start: resume" in run(*killed, TRAINER_CACHE=str(tmp_path / "mine"))
    straight = weights(tmp_path / "straight")
    for name, tensor in weights(tmp_path / "killed").items():
        assert torch.equal(tensor, straight[name]), name
