"""The runner of the shared cases: whatever a case does, there is a table and an exit code."""

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "cases"))
import run
from workbench import Case, TooLongError, Workbench


def raises(workbench):
    raise KeyError("a fault of the check")


def waits(workbench):
    process = workbench.start(sys.executable, "-c", "import time; time.sleep(60)")
    return True, str(workbench.wait(process).code)


def test_a_check_that_fails_itself_is_an_outcome():
    found = run.outcome(Case("name", "right", raises))
    assert not found.passed
    assert "KeyError" in found.found


def test_a_case_over_its_time_fails_and_leaves_no_process(tmp_path):
    started = time.monotonic()
    found = run.outcome(Case("name", "right", waits, limit=0.1))
    assert (found.passed, found.found) == (False, "not done after 0 s")
    assert time.monotonic() - started < 30
    workbench = Workbench(tmp_path, time.monotonic())
    process = workbench.start(sys.executable, "-c", "import time; time.sleep(60)")
    with pytest.raises(TooLongError):
        workbench.wait(process)
    assert process.poll() is not None


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_the_exit_code_says_whether_all_pass(passed, code, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(run, "SHARED", tmp_path)
    monkeypatch.setattr(run.image_cases, "CASES", [Case("first", "a | b", lambda _: (True, "x | y"))])
    monkeypatch.setattr(run.dataset_cases, "CASES", [Case("second", "right", lambda _: (passed, "found"))])
    monkeypatch.setattr(sys, "argv", ["run.py"])
    assert run.main() == code
    assert "x \\| y" in capsys.readouterr().out


def test_without_the_inputs_it_says_so_and_passes_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(run, "SHARED", tmp_path / "nowhere")
    monkeypatch.setattr(sys, "argv", ["run.py"])
    assert run.main() == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
