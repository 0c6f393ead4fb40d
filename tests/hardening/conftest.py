"""A seed and counts for all attacks, and a model to attack with.

HARDENING_SEED is the seed of every random choice; HARDENING_COUNT multiplies how often each is
made: 1 by `make hardening`, a fifth by default.
"""

import os
import random
import shutil
import zlib

import pytest

from forked_commands import ROOT, TRAIN, ForkedCommands

SEED = int(os.environ.get("HARDENING_SEED", "34"))
SCALE = float(os.environ.get("HARDENING_COUNT", "0.2"))


@pytest.fixture
def chance(request):
    """Random choices that depend on the seed and the test's name alone."""
    return random.Random(zlib.crc32(f"{SEED} {request.node.nodeid}".encode()))


@pytest.fixture(scope="session")
def times():
    """Returns how often to do what is done so often by default."""
    return lambda default: max(1, round(default * SCALE))


@pytest.fixture(scope="session")
def commands():
    forked = ForkedCommands()
    yield forked
    forked.close()


@pytest.fixture(scope="session")
def trained(tmp_path_factory, commands):
    """A folder with `run`, of a training of two epochs on the sample of MNIST, `prepared` and 60 `images`."""
    folder = tmp_path_factory.mktemp("trained")
    options = (*TRAIN, "--dataset", ROOT / "samples/mnist", "--prepared", folder / "prepared", "--epochs", "2")
    code, _ = commands.run(folder, "train", *options)
    assert code == 0, (folder / "stderr").read_text()[-3000:]
    (run,) = (folder / ".data/experiments").iterdir()
    run.rename(folder / "run")
    (folder / "images").mkdir()
    for path in sorted((ROOT / "samples/mnist/data").iterdir())[:60]:
        shutil.copy(path, folder / "images")
    return folder
