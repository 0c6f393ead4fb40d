import os
import signal

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


def test_an_error_in_a_process_is_raised_here():
    with pytest.raises(OSError, match="disk of a"), workers(2) as some:
        some.run("decoding", fail, ["a", "b", "c"])
