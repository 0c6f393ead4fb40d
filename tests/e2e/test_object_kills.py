"""Prepare to S3, killed at given calls: the same command ends as if it had not been."""

import os
import shutil
import subprocess
import sys

import pytest

from helpers import rows, tree, write_dataset
from object_server import needs_s3, serve_objects
from runner import ROOT

pytestmark = [pytest.mark.slow, needs_s3]
URL = "s3://bucket/prepared"
# Python runs this before a program. It kills its process at a call of a method, and makes blocks small, so that there
# are many.
CUSTOMIZE = """
import importlib, itertools, os, signal
from trainer_classification.data import mirror

mirror._BLOCK_BYTES = 4096
mirror._RUN_BYTES = 8192
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
