"""A run that is resumed takes its options from the checkpoint; others may change them, or are refused in a sentence."""

import json

import pytest
import torch

from helpers import rows, write_dataset
from runner import newest_checkpoint
from trainer_classification.checkpoint import file as checkpoint
from trainer_classification.config import TrainConfig
from trainer_classification.training import loop
from trainer_classification.training.save import save_checkpoint
from trainer_classification.training.train import train

OPTIONS = {
    "model": "resnet-small",
    "batch_size": 16,
    "learning_rate": 0.1,
    "epochs": 3,
    "device": "cpu",
    "seed": 5,
    "flip": "random",
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder that the first training prepares into, and the others find prepared."""
    return str(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def trained(tmp_path, dataset, prepared, monkeypatch):
    """A training in this process: returns (epoch, step, learning rate, loss) of its steps."""
    monkeypatch.chdir(tmp_path)
    for name in ("HAFNIA_CLOUD", "MDI_MODEL_DIR", "MDI_CHECKPOINT_DIR", "MDI_ARTIFACT_DIR"):
        monkeypatch.delenv(name, raising=False)

    def run(output, stop_after=None, **options):
        steps = []
        real = loop.run_steps

        def run_steps(setup, state):
            for loss in real(setup, state):
                rate = setup.step.optimizer.param_groups[0]["lr"]
                steps.append((state.epoch, state.step, rate, loss.item()))
                yield loss
                if stop_after and len(steps) == stop_after:
                    save_checkpoint(setup, state, "last.pth")
                    raise ConnectionAbortedError("as if killed")

        if "resume" not in options:
            options = {"dataset": str(dataset), "prepared": prepared} | OPTIONS | options
        config = TrainConfig(output_dir=output, **options)
        with monkeypatch.context() as patch:
            patch.setattr(loop, "run_steps", run_steps)
            try:
                train(config)
            except ConnectionAbortedError:
                assert stop_after
        return steps

    return run


def test_nothing_needs_to_be_repeated_and_the_losses_go_on(trained, tmp_path):
    """Given the file, the folder of checkpoints or that of the run."""
    straight = trained("straight")
    before = trained("killed", stop_after=7)
    path = newest_checkpoint(tmp_path / "killed")
    for number, resume in enumerate((path, path.parent, path.parents[1])):
        output = f"resumed-{number}"
        assert before + trained(output, resume=str(resume)) == straight, resume
        states = [checkpoint.load(newest_checkpoint(tmp_path / name))[0]["model"] for name in ("straight", output)]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
        logged = json.loads(next((tmp_path / output).glob("experiments/*/data/configuration.json")).read_text())
        shown = str(resume.relative_to(tmp_path))  # the working folder, whose own place outputs do not name
        assert (logged["seed"], logged["flip"], logged["resume"]) == (5, "random", shown)


def test_auto_takes_the_options_of_the_run_that_it_finds(trained):
    straight = trained("straight")
    before = trained("killed", stop_after=7)
    assert before + trained("killed", resume="auto") == straight


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epochs": 5}, "epochs is 5 instead of 3"),
        ({"learning_rate": 0.2}, "learning-rate is 0.2 instead of 0.1"),
    ],
)
def test_epochs_and_rate_change_from_here_on_and_a_line_says_what_that_means(trained, tmp_path, capsys, options, said):
    straight = trained("straight", **options)
    before = trained("killed", stop_after=7)
    capsys.readouterr()
    after = trained("resumed", resume=str(newest_checkpoint(tmp_path / "killed")), **options)
    assert [step[:3] for step in before[:7] + after][7:] == [step[:3] for step in straight][7:]
    assert after[0][3] != straight[7][3]
    line = next(line for line in capsys.readouterr().err.splitlines() if said in line)
    earlier = trained("same", resume=str(newest_checkpoint(tmp_path / "killed")))[0][2]
    assert f"({after[0][2]:.3g}, where it was {earlier:.3g})" in line
    meta = checkpoint.load_meta(newest_checkpoint(tmp_path / "resumed"))
    assert (meta.recipe.epochs, meta.progress.epoch) == (options.get("epochs", 3),) * 2


def test_a_finished_run_goes_on_for_more_epochs_and_is_not_finished_meanwhile(trained, tmp_path, capsys):
    trained("done")
    path = str(newest_checkpoint(tmp_path / "done"))
    assert checkpoint.load_meta(newest_checkpoint(tmp_path / "done")).progress.finished
    assert len(trained("more", stop_after=2, resume=path, epochs=4)) == 2
    assert "where it was at its end" in capsys.readouterr().err
    assert not checkpoint.load_meta(newest_checkpoint(tmp_path / "more")).progress.finished
    trained("more", resume="auto")
    assert checkpoint.load_meta(newest_checkpoint(tmp_path / "more")).progress.epoch == 4


def test_fewer_epochs_than_were_trained_are_refused(trained, tmp_path):
    trained("killed", stop_after=8)
    path = str(newest_checkpoint(tmp_path / "killed"))
    with pytest.raises(ValueError, match=r"--epochs is 1, but .* has trained 1 epochs and a part of the next"):
        trained("resumed", resume=path, epochs=1)
    assert not (tmp_path / "resumed").exists()


def test_what_cannot_change_is_refused_before_anything_is_prepared(trained, tmp_path):
    trained("killed", stop_after=1)
    path = str(newest_checkpoint(tmp_path / "killed"))
    other = write_dataset(tmp_path / "other", rows(60), ["a", "b"], name="other")
    with pytest.raises(ValueError, match=r"its image_size differs \(28 / 64\)"):
        trained("resumed", resume=path, image_size=64, prepared="elsewhere")
    with pytest.raises(ValueError, match=r"its dataset differs \(tiny / other\).*--weights"):
        trained("resumed", resume=path, dataset=str(other), prepared="elsewhere")
    assert not (tmp_path / "elsewhere").exists()
    assert not (tmp_path / "resumed").exists()


def test_the_command_needs_nothing_but_the_run(runner):
    runner("--epochs", "2", "--seed", "7")
    (first,) = runner.experiments
    command = runner.command()
    short = [*command[:2], "--resume", str(first), "--epochs", "3"]
    runner.command = lambda *options: [*short, *options]
    errors = runner()
    assert "epochs is 3 instead of 2" in errors
    assert [row["epoch"] for row in runner.metrics(runner.experiments[-1])][-1] == 3
    refused = runner("--seed", "0", code=2)
    assert "its seed differs (7 / 0)" in refused
    assert "--weights" in refused
    assert "Traceback" not in refused
