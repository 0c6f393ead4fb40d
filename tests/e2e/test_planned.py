"""--preflight and --budget on the tiny dataset, and a run with everything at once."""

import time

import pytest

from helpers import rows, write_dataset


def test_preflight_says_yes_with_the_whole_time_and_leaves_no_run(runner):
    errors = runner("--preflight", "--epochs", "3", "--output-dir", "outputs/runs")
    for name in ("sample", "step", "memory", "checkpoint", "time"):
        assert f"preflight {name}: yes" in errors
    assert "for 3 epochs of 5 steps" in errors
    assert [path.name for path in runner.folder.iterdir()] == ["prepared"]


def test_preflight_says_no_with_exit_code_1_for_a_bad_image_and_for_a_loss_that_explodes(runner, tmp_path):
    good = runner.dataset
    runner.dataset = write_dataset(tmp_path / "bad", [*rows(30), {**rows(1)[0], "data": b"no image"}], ["a", "b"])
    assert "cannot be read" in runner("--preflight", code=1)
    runner.dataset = good
    errors = runner("--preflight", "--learning-rate", "1e30", "--warmup-fraction", "0", code=1)
    assert "preflight step: no, the loss is" in errors


def test_preflight_tries_what_the_run_is_asked_to_do(runner):
    assert "preflight: no, --budget is 'soon'" in runner("--preflight", "--epochs", "0", "--budget", "soon", code=1)
    assert "preflight: no, There is no checkpoint x.pth" in runner("--preflight", "--resume", "x.pth", code=1)


@pytest.mark.slow
def test_preflight_of_a_budget_says_what_was_planned(runner):
    errors = runner("--preflight", "--epochs", "0", "--budget", "20s")
    assert "Budget: " in errors
    assert "preflight time: yes" in errors


@pytest.mark.slow
def test_preflight_in_two_processes_answers_once(runner):
    errors = runner("--preflight", "--processes", "2")
    assert errors.count("preflight time: yes") == 1
    runner.dataset = "./not-there"
    errors = runner("--preflight", "--processes", "2", code=1)
    assert errors.count("preflight: no") == 1


@pytest.mark.slow
def test_a_budget_is_kept(runner):
    """To a tenth on a machine shared with other tests; to a twentieth where it runs alone."""
    runner("--stop-early")
    started = time.time()
    errors = runner("--epochs", "0", "--budget", "40s")
    assert "Budget: " in errors
    assert time.time() - started == pytest.approx(40, rel=0.1)
    assert runner.summary(runner.experiments[-1])["seconds_total"] == pytest.approx(40, rel=0.1)


def test_a_budget_with_epochs_is_a_contradiction(runner):
    assert "omit --epochs 3" in runner("--budget", "10s", code=2)
    assert "such as 90s" in runner("--epochs", "0", "--budget", "soon", code=2)
