"""A seed and counts for all attacks, and a model to attack with.

HARDENING_SEED is the seed of every random choice; HARDENING_COUNT multiplies how often each is
made: a fifth by `make hardening` and in CI.
"""

import os
import random
import shutil
import zlib

import pytest

from forked_commands import ROOT, TRAIN, ForkedCommands
from helpers import encoded, noise, write_dataset

SEED = int(os.environ.get("HARDENING_SEED", "34"))
SCALE = float(os.environ.get("HARDENING_COUNT", "0.2"))
# Attacks that take longest for what they find; docs/reliability.md names them.
needs_whole_count = pytest.mark.skipif(SCALE < 1, reason="takes minutes: run it with HARDENING_COUNT=1 or more")


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


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory):
    """A Hafnia dataset whose preparation takes several jobs, and whose training takes a second."""
    splits = ["train"] * 1040 + ["validation"] * 64 + ["test"] * 64
    rows = [
        {"data": encoded(noise(n, 28, 28)), "label": "ab"[n % 2], "split": split, "width": 28, "height": 28}
        for n, split in enumerate(splits)
    ]
    return write_dataset(tmp_path_factory.mktemp("small") / "small", rows, ["a", "b"], name="small")


class Moments:
    """Random moments of a command that runs again and again, on a machine that is busy now and then.

    Half of them are in the last fifth, in which files are written; some come after the end.

    Attributes:
        kills: how many came before the end.

    Args:
        chance: random numbers.
        seconds: that the command takes undisturbed.
    """

    def __init__(self, chance: random.Random, seconds: float) -> None:
        self.kills = 0
        self._chance = chance
        self._seconds = seconds
        self._moment = 0.0

    def draw(self) -> float:
        """Return the next moment, in seconds."""
        first = 0.8 if self._chance.random() < 0.5 else 0.0
        self._moment = self._seconds * self._chance.uniform(first, 1.05)
        return self._moment

    def learn(self, code: int, seconds: float) -> None:
        """Take how the command ended that was to be killed at the last moment."""
        assert code in (0, -9)
        if code == 0:
            self._seconds = seconds
        else:
            self._seconds = max(self._seconds, self._moment)
            self.kills += 1


@pytest.fixture
def moments(chance):
    """Returns random moments of a command that takes some seconds."""
    return lambda seconds: Moments(chance, seconds)
