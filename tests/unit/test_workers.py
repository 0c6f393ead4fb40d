import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from trainer_classification.preparation.workers import Workers


def process_of(piece):
    return len(piece), os.getpid()


def die(piece):
    os.kill(os.getpid(), signal.SIGKILL)


def fail(piece):
    raise OSError(f"disk of {piece}")


def workers(count):
    return Workers(count, resized=False)


def test_results_come_in_the_order_of_the_pieces_from_processes_that_stay():
    pieces = ["x" * length for length in (3, 1, 4, 1, 5, 9, 2, 6)]
    with workers(2) as some:
        first, second = (some.run("reading", process_of, pieces) for _ in range(2))
    assert [length for length, _ in first] == [length for length, _ in second] == [3, 1, 4, 1, 5, 9, 2, 6]
    processes = {process for _, process in first + second}
    assert 1 <= len(processes) <= 2
    assert os.getpid() not in processes


@pytest.mark.parametrize(("count", "pieces"), [(1, ["a", "b", "c"]), (2, ["abc"]), (2, [])])
def test_one_worker_or_piece_needs_no_process(count, pieces):
    with workers(count) as some:
        assert some.run("reading", process_of, pieces) == [(len(piece), os.getpid()) for piece in pieces]


def test_a_killed_process_is_said_in_one_sentence():
    with (
        pytest.raises(ValueError, match=r"worker process was killed\. .* run the same command again"),
        workers(2) as some,
    ):
        some.run("decoding", die, ["a", "b", "c"])


AT_WORK = """
import sys, threading
from trainer_classification.preparation.workers import Workers
sys.path.insert(0, {folder!r})
from test_workers import say_and_hang
with Workers(2, resized=False) as workers:
    workers.run("decoding", say_and_hang, ["a", "b"])
"""


def say_and_hang(piece):
    os.write(2, b"at work\n")
    threading.Event().wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_and_their_server_end_with_the_process_that_they_work_for(number):
    """They hold its stderr open: its end is read when the last of them is gone."""
    program = AT_WORK.format(folder=str(Path(__file__).parent))
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    assert [process.stderr.readline() for _ in range(2)] == ["at work\n"] * 2
    process.send_signal(number)
    started = time.monotonic()
    process.communicate(timeout=30)
    assert time.monotonic() - started < 2
    assert process.returncode == -number


def test_an_error_in_a_process_is_raised_here():
    with pytest.raises(OSError, match="disk of a"), workers(2) as some:
        some.run("decoding", fail, ["a", "b", "c"])
