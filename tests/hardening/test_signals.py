"""prepare.py ends in time, and with all its processes, whenever and however often it is asked to stop."""

import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from helpers import tree

ROOT = Path(__file__).parents[2]
SECONDS = 2.0

WAYS = {
    "TERM twice": ([signal.SIGTERM] * 2, {143}),
    "INT five times": ([signal.SIGINT] * 5, {130}),
    "HUP": ([signal.SIGHUP], {129}),
    "all, many times": ([signal.SIGTERM, signal.SIGINT, signal.SIGHUP] * 10, {143, 130, 129}),
    "KILL": ([signal.SIGKILL], {-signal.SIGKILL}),
}


def command(out):
    script = [sys.executable, str(ROOT / "scripts/prepare.py")]
    return [*script, "--dataset", str(ROOT / "samples/caltech-101"), "--out", str(out), "--workers", "2", "--force"]


def stop(out, numbers, moment):
    """Start prepare, stop it after some seconds, and return its exit code, its lines and how long it took to end.

    Its processes hold its stderr open: it ends when the last of them has.
    """
    process = subprocess.Popen(command(out), stderr=subprocess.PIPE, text=True, cwd=out.parent)
    first = process.stderr.readline()  # it is at work
    with suppress(subprocess.TimeoutExpired):
        process.wait(moment.uniform(0, 1.5))
    started = time.monotonic()
    for number in numbers:
        if process.poll() is None:
            process.send_signal(number)
        if moment.random() < 0.5:
            time.sleep(moment.uniform(0, 0.02))
    rest = process.communicate(timeout=60)[1]
    return process.returncode, first + rest, time.monotonic() - started


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an undisturbed run makes."""
    out = tmp_path_factory.mktemp("whole") / "out"
    subprocess.run(command(out), check=True, stderr=subprocess.DEVNULL, cwd=out.parent)
    (made,) = out.glob("caltech*")
    return tree(made)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_it_ends_within_two_seconds_with_its_code_one_line_and_no_process_left(tmp_path, chance, times, whole, way):
    numbers, codes = WAYS[way]
    for _ in range(times(4)):
        code, lines, seconds = stop(tmp_path / "out", numbers, chance)
        if code == 0:
            continue  # it was done before
        assert code in codes, lines
        assert seconds < SECONDS
        assert "Traceback" not in lines
        assert lines.count("Nothing is lost") == (signal.SIGKILL not in numbers)

    subprocess.run(command(tmp_path / "out"), check=True, stderr=subprocess.DEVNULL, cwd=tmp_path)
    (made,) = (tmp_path / "out").glob("caltech*")
    assert tree(made) == whole
