"""prepare.py killed 20 times at random moments ends with the bytes of an undisturbed run."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import tree

ROOT = Path(__file__).parents[2]
KILLS = 20


def command(out):
    script = [sys.executable, str(ROOT / "scripts/prepare.py")]
    return [*script, "--dataset", str(ROOT / "samples/mnist"), "--out", str(out), "--workers", "2"]


@pytest.mark.slow
def test_killed_20_times_at_random_moments_the_bytes_are_those_of_an_undisturbed_run(tmp_path):
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    subprocess.run(command(tmp_path / "whole"), check=True, **quiet)
    moment = random.Random(0)
    for _ in range(KILLS):
        # --force: also a run that is done starts again, so that each kill hits one at work.
        process = subprocess.Popen([*command(tmp_path / "killed"), "--force"], **quiet)
        try:
            process.wait(moment.uniform(0.2, 2.0))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    subprocess.run([*command(tmp_path / "killed"), "--force"], check=True, **quiet)
    (whole,) = (tmp_path / "whole").glob("mnist-28px-*")
    name = whole.name
    assert tree(tmp_path / "killed" / name) == tree(whole)
    names = sorted(path.name for path in (tmp_path / "killed").iterdir())
    (inspected,) = (tmp_path / "killed").glob(".*.inspected.json")
    assert names == sorted([inspected.name, f".{name}.images.npz", f".{name}.lock", name])
