"""Several processes over gloo: the curve of one, one set of outputs, and an end for all when one ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

WORKER = Path(__file__).with_name("plain_worker.py")


@pytest.fixture
def many(runner):
    """Runs the test's own train.py."""
    real = runner.command

    def command(*options):
        python, _, *rest = real(*options)
        return [python, str(WORKER), *rest]

    runner.command = command
    runner.is_forked = False
    return runner


def step_losses(metrics):
    return np.array([row["loss_train"] for row in metrics]), np.array([row["loss_validation"] for row in metrics])


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_equal_global_batches_give_the_curve_of_one_process(many, processes):
    """To 1e-4: sums in another order; a wrong share, a wrong mean or a wrong rate is off by percents."""
    options = ("--mixup", "0.2", "--clip-norm", "1", "--ema", "0.9", "--batch-size", "16")
    many(*options, TEST_PLAIN="1")
    shm = set(os.listdir("/dev/shm"))
    errors = many(*options, "--processes", str(processes), TEST_PLAIN="1")
    assert set(os.listdir("/dev/shm")) <= shm
    one, several = many.experiments
    for a, b in zip(step_losses(many.metrics(one)), step_losses(many.metrics(several)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)
    first, second = many.summary(one), many.summary(several)
    assert (first["world_size"], second["world_size"]) == (1, processes)
    assert first["accuracy_test"] == second["accuracy_test"]
    assert first["loss_test"] == pytest.approx(second["loss_test"], rel=1e-4)
    assert errors.count("Done: test accuracy") == 1
    assert errors.count("epoch 3/3") == 1
    names = pl.read_parquet(several / "data/experiment.parquet")["name"]
    assert (names == "train/loss").sum() == 3


@pytest.mark.slow
def test_where_memory_of_one_rank_is_scarce_all_compute_in_parts_with_the_same_curve(many):
    options = ("--processes", "2", "--cutmix", "1")
    many(*options, TEST_PLAIN="1")
    errors = many(*options, TEST_PLAIN="1", TEST_FAULT="memory")
    assert errors.count("does not suffice for 8 images at once: batches are computed in 2 parts") == 1
    assert errors.count("does not suffice for 8 images at once: batches are computed in 4 parts") == 1
    roomy, scarce = many.experiments
    for a, b in zip(step_losses(many.metrics(roomy)), step_losses(many.metrics(scarce)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


@pytest.mark.slow
def test_all_ranks_stop_early_at_the_same_epoch(many):
    errors = many("--epochs", "12", "--early-stop", "2", "--processes", "2", TEST_PLAIN="1")
    (experiment,) = many.experiments
    summary = many.summary(experiment)
    assert summary["stopped_early"]
    assert summary["epochs"] == len(many.metrics(experiment)) < 12
    assert errors.count("Stopped early") == 1


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [("raise", 1, "rank 1 has a fault"), pytest.param("kill", 137, "SIGKILL", marks=pytest.mark.slow)],
)
def test_a_dead_rank_ends_the_job_with_its_traceback_and_code(many, fault, code, said):
    errors = many("--epochs", "4000", "--processes", "2", code=code, TEST_FAULT=fault)
    seconds = time.time() - (many.folder / "fault").stat().st_mtime
    assert said in errors
    assert "--resume auto" in errors
    assert errors.count("Traceback") == (fault == "raise")
    print(f"ended {seconds:.1f} s after the fault")
    assert seconds < 10


def stopped(many, number):
    many("--stop-early")
    process = subprocess.Popen(
        many.command("--epochs", "4000", "--processes", "2"),
        cwd=many.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=many.environment,
    )
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            break
    process.send_signal(number)
    rest = process.stderr.read()
    process.stderr.close()
    return process.wait(30), rest


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_to_the_launcher_ends_all_ranks_with_one_checkpoint(many, number):
    code, rest = stopped(many, number)
    assert code == 128 + number
    assert rest.count("Stopped; everything is saved") == 1
    assert "Traceback" not in rest
    experiments = [folder for folder in many.experiments if (folder / "checkpoints/last.pth").exists()]
    assert len(experiments) == 2  # the dry run's and this one's


def test_two_processes_stopped_and_resumed_have_the_losses_of_a_straight_run(many):
    options = ("--epochs", "6", "--processes", "2", "--ema", "0.9", "--cutmix", "1")
    many(*options)
    many(*options, code=143, TEST_FAULT="stop")
    resume = many.experiments[-1] / "checkpoints/last.pth"
    many(*options, "--resume", str(resume))
    assert many.metrics(many.experiments[0]) == many.metrics(many.experiments[-1])


def test_a_wrong_dataset_is_said_once(many):
    many.dataset = "./not-there"
    errors = many("--processes", "2", code=2)
    assert errors.count("Error: There is no folder not-there.") == 1
    assert "Traceback" not in errors


@pytest.mark.slow
def test_torchrun_starts_the_same_processes(many):
    many("--stop-early")
    command = many.command("--stop-early")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command[1:]]
    done = subprocess.run(launcher, cwd=many.folder, capture_output=True, text=True, env=many.environment, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert many.summary(many.experiments[-1])["world_size"] == 2
    assert json.loads((many.experiments[-1] / "data/configuration.json").read_text())["stop_early"] is True
