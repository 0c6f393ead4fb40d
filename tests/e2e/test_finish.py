"""A run that was killed after its last epoch writes what is missing, without training again."""

import shutil

import torch

from helpers import tree

FIGURES = ("epochs", "best_epoch", "accuracy_test", "accuracy_validation", "loss_test", "model_id", "temperature")


def test_a_run_killed_before_its_outputs_writes_them_in_a_resume(runner):
    runner("--epochs", "2")
    (killed,) = runner.experiments
    whole = killed.with_name("whole")
    shutil.copytree(killed, whole)
    shutil.rmtree(whole / "checkpoints")
    for name in ("model", "data"):
        shutil.rmtree(killed / name)
        (killed / name).mkdir()

    errors = runner("--epochs", "2", "--resume", "auto")
    assert "epoch 1/2" not in errors
    finished = runner.experiments[-1]
    assert finished not in (killed, whole)
    before, after = (torch.load(folder / "model/model.pth", weights_only=True) for folder in (whole, finished))
    assert before["state"]["model"].keys() == after["state"]["model"].keys()
    assert all(torch.equal(tensor, after["state"]["model"][name]) for name, tensor in before["state"]["model"].items())
    figures = [{name: runner.summary(folder)[name] for name in FIGURES} for folder in (whole, finished)]
    assert figures[0] == figures[1]
    assert runner.metrics(whole) == runner.metrics(finished)
    assert tree(whole / "data").keys() <= tree(finished / "data").keys()

    shutil.rmtree(whole)
    assert "is finished" in runner("--epochs", "1", "--resume", "auto")
