"""Workers of the benchmarks: what happens to those that break."""

import os
import signal

import pytest

from harness import worker_client
from harness.fork_server import get_fork_server
from harness.worker_client import CandidateError, WorkerClient


@pytest.fixture(autouse=True, scope="module")
def _no_fork_server_stays():
    """Other tests look for processes that were left behind."""
    yield
    get_fork_server().end()
    get_fork_server.cache_clear()


def test_a_process_that_dies_is_named_with_its_exit_code_and_ends_once_more_without_harm(tmp_path):
    worker = WorkerClient("a", "os:_exit", {"status": 3}, tmp_path / "log")
    with pytest.raises(CandidateError, match=r"the worker ended \(3\): it printed nothing"):
        worker.answer()
    worker.end()
    other = WorkerClient("b", "os:_exit", {"status": 4}, tmp_path / "log")
    with pytest.raises(CandidateError, match=r"\(4\)"):
        other.answer()
    other.end()


def test_one_that_cannot_start_says_why_and_still_ends(tmp_path):
    worker = WorkerClient("a", "no_such_module:start", {}, tmp_path / "log")
    with pytest.raises(CandidateError, match="ModuleNotFoundError: No module named 'no_such_module'"):
        worker.answer()
    worker.end()
    assert worker.code == 0
    assert "Traceback" in (tmp_path / "log").read_text()


def test_one_that_hangs_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(worker_client, "_END_TIMEOUT", 0.1)
    worker = WorkerClient("a", "signal:pause", {}, tmp_path / "log")
    worker.end()
    assert worker.code == -9


def test_one_that_does_not_answer_is_killed_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(worker_client, "_ANSWER_TIMEOUT", 0.2)
    worker = WorkerClient("a", "signal:pause", {}, tmp_path / "log")
    with pytest.raises(CandidateError, match=r"the worker did not answer within 0\.2 seconds, and was killed"):
        worker.answer()
    worker.end()
    assert worker.code == -9


def test_the_fork_server_has_no_threads(tmp_path):
    worker = WorkerClient(
        "a", "no_such_module:start", {}, tmp_path / "log"
    )  # answers once the fork server has imported all
    with pytest.raises(CandidateError, match="ModuleNotFoundError"):
        worker.answer()
    worker.end()
    assert len(os.listdir(f"/proc/{get_fork_server().pid}/task")) == 1


def test_what_is_preloaded_is_done_before_the_next_is_forked_and_may_fail(tmp_path):
    get_fork_server().preload("no_such_module:function")
    get_fork_server().preload("os:setsid")
    worker = WorkerClient("a", "no_such_module:start", {}, tmp_path / "log")
    with pytest.raises(CandidateError, match="ModuleNotFoundError"):
        worker.answer()
    assert os.getsid(worker.pid) == get_fork_server().pid
    worker.end()


def test_ctrl_c_ends_those_that_are_measured_and_leaves_who_waits_for_them(tmp_path):
    worker = WorkerClient("a", "no_such_module:start", {}, tmp_path / "log")
    with pytest.raises(CandidateError, match="ModuleNotFoundError"):
        worker.answer()
    for pid in (get_fork_server().pid, worker.pid):
        os.kill(pid, signal.SIGINT)
    with pytest.raises(CandidateError, match=r"the worker ended \(-2\)"):
        worker.answer()
    worker.end()
