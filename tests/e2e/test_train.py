"""prepare → train → kill → resume, as a user does it."""

import dataclasses
import json
import os
import signal
import subprocess

import polars as pl
import pytest
import torch

from helpers import encoded, noise, rows, write_dataset
from runner import newest_checkpoint
from trainer_classification.checkpoint import file as checkpoint
from trainer_classification.config import TrainConfig
from trainer_classification.data.in_use import check_unused
from trainer_classification.outputs.summary import REQUIRED
from trainer_classification.training import cpu_precision, epoch, loop
from trainer_classification.training import train as train_module
from trainer_classification.training.save import save_checkpoint
from trainer_classification.training.train import train


def test_a_training_leaves_model_checkpoints_summary_and_metrics(runner):
    runner()
    (experiment,) = runner.experiments
    summary = runner.summary(experiment)
    assert set(REQUIRED) <= summary.keys()
    assert summary["accuracy_test"] > 0.9
    assert summary["epochs"] == 3
    assert len(runner.metrics(experiment)) == 3
    state, meta = checkpoint.load(experiment / "model/model.pth")
    assert meta.class_names == ["a", "b"]
    assert meta.image_size == 28
    assert all(torch.isfinite(tensor.double()).all() for tensor in state["model"].values())
    assert "accuracy on test" in (experiment / "model/README.md").read_text()
    assert {"last.pth", "best.pth"} <= set(os.listdir(experiment / "checkpoints"))
    assert runner.stdout == ""  # the tracker's lines are for the platform
    names = pl.read_parquet(experiment / "data/experiment.parquet")["name"]
    assert (names == "train/loss").sum() == 3
    logged = json.loads((experiment / "data/configuration.json").read_text())
    assert logged["batch_size"] == 16
    assert logged["recipe_model"] == "resnet-small"


IN_PROCESS = TrainConfig(model="resnet-small", batch_size=16, learning_rate=0.1, epochs=3, device="cpu")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder that the first training prepares into, and the others find prepared."""
    return str(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def straight_losses():
    """The losses of trainings that were not killed, by their options."""
    return {}


@pytest.fixture
def in_process(tmp_path, dataset, prepared, monkeypatch):
    """A training in this process: returns the losses of its steps."""
    monkeypatch.chdir(tmp_path)
    for name in ("HAFNIA_CLOUD", "MDI_MODEL_DIR", "MDI_CHECKPOINT_DIR", "MDI_ARTIFACT_DIR"):
        monkeypatch.delenv(name, raising=False)

    def run(output, stop_after=None, save_each=None, **options):
        losses = []
        real = loop.run_steps

        def run_steps(setup, state):
            for loss in real(setup, state):
                losses.append((state.epoch, state.step, loss.item()))
                yield loss
                if save_each:
                    save_checkpoint(setup, state, "last.pth")
                if stop_after and len(losses) == stop_after:
                    raise ConnectionAbortedError("as if killed")

        with monkeypatch.context() as patch:
            patch.setattr(loop, "run_steps", run_steps)
            places = {"dataset": str(dataset), "prepared": prepared, "output_dir": output}
            config = dataclasses.replace(IN_PROCESS, **(places | options))
            try:
                train(config)
            except ConnectionAbortedError:
                assert stop_after
        return losses

    return run


def test_a_run_holds_the_prepared_dataset_until_it_ends(in_process, monkeypatch):
    real = train_module.fit
    folders = []

    def fit(setup, *args):
        folders.append(setup.inputs.folder)
        with pytest.raises(ValueError, match="A run in progress reads"):
            check_unused(folders[0])
        real(setup, *args)

    monkeypatch.setattr(train_module, "fit", fit)
    in_process("a", epochs=1)
    check_unused(folders[0])


def test_two_runs_of_one_seed_have_the_same_losses_and_another_seed_has_others(in_process):
    first, second, other = in_process("a"), in_process("b"), in_process("c", seed=1)
    assert first == second
    assert first != other
    assert len(first) == 15


@pytest.mark.parametrize("killed_at", [1, 4, 5, 8, 14])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ema": 0.9, "optimizer": "adamw"},
        {"mixup": 0.2, "cutmix": 1.0, "clip_norm": 0.5, "accumulate": 2, "image_size": 32, "progressive": 24},
        {"progressive": 20},  # of images that are only shifted
    ],
)
def test_killed_at_any_step_and_resumed_the_losses_go_on_as_if_nothing_happened(
    in_process, straight_losses, tmp_path, killed_at, options
):
    if str(options) not in straight_losses:
        straight_losses[str(options)] = in_process("straight", **options)
    before = in_process("killed", stop_after=killed_at, save_each=True, **options)
    after = in_process("resumed", resume=str(newest_checkpoint(tmp_path / "killed")), **options)
    assert before + after == straight_losses[str(options)]


def test_a_stem_is_trained_in_the_first_epochs_and_a_resumed_run_keeps_it(in_process, tmp_path):
    """With clipping its learning rate is zero, without there are no gradients: both have the same losses."""
    cifar = write_dataset(tmp_path / "cifar10", rows(48), ["a", "b"], name="cifar10")
    options = {"dataset": str(cifar), "recipe": "speed", "model": "auto", "image_size": 18, "epochs": 5, "amp": "off"}
    straight = in_process("straight", **options)
    clipped = in_process("clipped", clip_norm=1e9, **options)
    assert clipped == straight
    steps = len(straight) // 5

    def bias(folder):
        return checkpoint.load(newest_checkpoint(tmp_path / folder))[0]["model"]["whiten.bias"]

    for epochs, is_last in ((2, False), (3, True)):
        before = in_process(f"killed {epochs}", stop_after=epochs * steps, save_each=True, **options)
        assert torch.equal(bias(f"killed {epochs}"), bias("straight")) is is_last
    resumed = in_process("resumed", resume=str(newest_checkpoint(tmp_path / "killed 3")), **options)
    assert before + resumed == straight


def test_a_cpu_that_chose_bf16_goes_on_in_it_and_one_told_to_takes_it(in_process, tmp_path, monkeypatch):
    monkeypatch.setattr(cpu_precision, "has_bf16_cpu", lambda: True)
    monkeypatch.setattr(cpu_precision, "choose_faster", lambda *_: (torch.bfloat16, "bf16: twice as fast"))
    before = in_process("killed", stop_after=7, save_each=True)
    meta = checkpoint.load_meta(newest_checkpoint(tmp_path / "killed"))
    assert meta.cpu_precision == "bfloat16"
    monkeypatch.setattr(cpu_precision, "choose_faster", lambda *_: (None, "fp32: now it seems faster"))
    after = in_process("resumed", resume=str(newest_checkpoint(tmp_path / "killed")))
    assert before + after == in_process("told", amp="bf16") != in_process("plain")
    precisions = [
        json.loads(next((tmp_path / name).glob("experiments/*/data/summary.json")).read_text())["precision"]
        for name in ("resumed", "told", "plain")
    ]
    assert precisions == ["bfloat16", "bfloat16", "float32"]


def test_a_resumed_run_ends_with_the_weights_and_metrics_of_a_straight_one(in_process, tmp_path):
    in_process("straight")
    in_process("killed", stop_after=7, save_each=True)
    in_process("resumed", resume=str(newest_checkpoint(tmp_path / "killed")))
    states = [checkpoint.load(newest_checkpoint(tmp_path / name))[0]["model"] for name in ("straight", "resumed")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    paths = [next((tmp_path / name).glob("experiments/*/data/metrics.jsonl")) for name in ("straight", "resumed")]
    losses = [[json.loads(line)["loss_train"] for line in path.read_text().splitlines()] for path in paths]
    assert losses[0] == losses[1]


def test_resuming_with_another_recipe_says_what_differs(in_process, tmp_path):
    in_process("killed", stop_after=3, save_each=True)
    with pytest.raises(ValueError, match=r"recipe differs \(batch_size 16 / 32\)"):
        in_process("resumed", resume=str(newest_checkpoint(tmp_path / "killed")), batch_size=32)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"seed": 2}, r"its seed differs \(0 / 2\)"), ({"best_by": "loss"}, r"its best_by differs \(accuracy / loss\)")],
)
def test_what_a_resumed_run_cannot_change_is_compared(in_process, tmp_path, options, message):
    in_process("killed", stop_after=3, save_each=True)
    with pytest.raises(ValueError, match=message):
        in_process("resumed", resume=str(newest_checkpoint(tmp_path / "killed")), **options)


@pytest.mark.parametrize("stop_after", [7, None])
def test_a_checkpoint_that_was_copied_alone_ends_with_a_model(in_process, tmp_path, stop_after):
    in_process("before", stop_after=stop_after, save_each=True)
    alone = tmp_path / "alone.pth"
    alone.write_bytes(newest_checkpoint(tmp_path / "before").read_bytes())
    in_process("after", resume=str(alone))
    (model,) = tmp_path.glob("after/experiments/*/model/model.pth")
    assert checkpoint.load_meta(model).progress.epoch == 3


def test_a_run_goes_on_in_another_precision_with_a_fresh_scale(in_process, tmp_path, monkeypatch):
    """On a V100 after a CPU or an A100, whose checkpoints hold no scale."""
    in_process("before", stop_after=7, save_each=True)

    class Scaler(torch.amp.GradScaler):
        def load_state_dict(self, state):
            assert state, "as torch does where it is enabled"

    monkeypatch.setattr("torch.amp.GradScaler", Scaler)
    assert len(in_process("after", resume=str(newest_checkpoint(tmp_path / "before")))) == 8


def test_a_run_without_a_budget_is_not_resumed_with_one(in_process, tmp_path):
    in_process("before", stop_after=3, save_each=True)
    with pytest.raises(ValueError, match="is of a run without --budget"):
        in_process("after", resume=str(newest_checkpoint(tmp_path / "before")), budget="30s", epochs=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shift": 28}, "--shift is 28, but must be less than the 28 px"),
        ({"cutout": 28}, "--cutout is 28, but must be less than the 28 px"),
        ({"model": "speednet", "image_size": 32, "progressive": 8}, "--progressive is 8, .* 32 px needs 9 px or more"),
    ],
)
def test_what_does_not_fit_the_images_is_said_before_training(in_process, options, message):
    with pytest.raises(ValueError, match=message):
        in_process("a", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "no/model.pth"}, "There are no weights no/model.pth"),
        ({"resume": "no/last.pth"}, "There is no checkpoint no/last.pth"),
        ({"weights": "imagenet", "model": "speednet"}, "there are none for speednet"),
        ({"model": "resnet-digits", "image_size": 8}, "resnet-digits is for images of 9 px and more, not of 8 px"),
    ],
)
def test_a_wrong_path_is_found_before_preparing(in_process, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        in_process("a", prepared="prepared", **options)
    assert not (tmp_path / "prepared").exists()
    assert not (tmp_path / "a").exists()


def test_a_refused_start_leaves_no_folder_of_a_run(in_process, tmp_path):
    in_process("before", stop_after=1, save_each=True)
    for options in ({"shift": 28}, {"resume": str(newest_checkpoint(tmp_path / "before")), "batch_size": 32}):
        with pytest.raises(ValueError, match=r"--shift is 28|cannot be resumed"):
            in_process("a", **options)
        assert not (tmp_path / "a").exists()


def test_max_steps_per_epoch_is_exact_and_stop_early_takes_two_steps(in_process):
    assert [step[:2] for step in in_process("a", max_steps_per_epoch=2, epochs=2)] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert len(in_process("b", stop_early=True)) == 2


def test_a_loss_that_is_not_finite_stops_the_run_with_what_to_try(in_process, monkeypatch):
    monkeypatch.setattr(loop, "_MAX_NOT_FINITE", 3)
    with pytest.raises(ValueError, match="lower --learning-rate"):
        in_process("a", learning_rate=1e30, warmup_fraction=0.0)


@pytest.mark.parametrize("options", [{"epochs": 2}, {"stop_early": True}, {"validation_fraction": 0.0, "epochs": 1}])
def test_a_model_of_nan_is_never_kept_however_few_the_steps(in_process, tmp_path, options):
    with pytest.raises(ValueError, match=r"not finite.*lower --learning-rate"):
        in_process("a", learning_rate=1e30, warmup_fraction=0.0, **options)
    assert not list(tmp_path.glob("a/experiments/*/*/*.pth"))


def test_an_epoch_without_a_finite_validation_loss_is_never_the_best(in_process, tmp_path, monkeypatch):
    real = epoch.evaluate
    losses = iter([0.5, float("inf"), float("nan")])
    monkeypatch.setattr(
        epoch, "evaluate", lambda *args, **more: dataclasses.replace(real(*args, **more), loss=next(losses))
    )
    in_process("a")
    (folder,) = tmp_path.glob("a/experiments/*/data")
    text = (folder / "metrics.jsonl").read_text()
    assert json.loads((folder / "summary.json").read_text())["best_epoch"] == 1
    rows = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    assert [row["loss_validation"] for row in rows] == [0.5, None, None]


def test_of_epochs_equal_on_validation_the_latest_is_kept(in_process, tmp_path, monkeypatch, capsys):
    real = epoch.evaluate
    accuracies = iter([0.5, 0.9, 0.9])
    monkeypatch.setattr(
        epoch, "evaluate", lambda *args, **more: dataclasses.replace(real(*args, **more), accuracy=next(accuracies))
    )
    in_process("a")
    (summary,) = (json.loads(p.read_text()) for p in tmp_path.glob("a/experiments/*/data/summary.json"))
    assert (summary["best_epoch"], summary["best_by"]) == (3, "accuracy")
    assert "Kept: epoch 3, validation accuracy 0.9000, the latest of 2 epochs" in capsys.readouterr().err


def test_without_validation_the_last_epoch_is_kept(in_process, tmp_path):
    in_process("a", validation_fraction=0.0)
    (summary,) = (json.loads(p.read_text()) for p in tmp_path.glob("a/experiments/*/data/summary.json"))
    assert summary["accuracy_validation"] is None
    assert summary["best_epoch"] == 3


def test_sigterm_writes_a_checkpoint_says_how_to_go_on_and_auto_goes_on(runner):
    runner("--stop-early")  # prepares, so that the signal comes within training
    process = subprocess.Popen(
        runner.command("--epochs", "4000", "--log-interval", "1", "--project-name", "stopped"),
        cwd=runner.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=runner.environment,
    )
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            break
    process.send_signal(signal.SIGTERM)
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait(20) == 128 + signal.SIGTERM
    assert "--resume" in rest
    assert "Traceback" not in rest
    stopped = checkpoint.load_meta(newest_checkpoint(runner.folder / ".data"))
    assert stopped.progress.epoch >= 2
    again = runner("--epochs", "4000", "--project-name", "stopped", "--resume", "auto", "--batch-size", "8", code=2)
    assert "batch_size 16 / 8" in again


def test_in_the_cloud_the_platforms_folders_are_used(runner, tmp_path):
    folders = {name: str(tmp_path / name) for name in ("MDI_MODEL_DIR", "MDI_CHECKPOINT_DIR", "MDI_ARTIFACT_DIR")}
    runner.dataset, dataset = "ignored", runner.dataset
    errors = runner(HAFNIA_CLOUD="true", MDI_DATASET_DIR=str(dataset), **folders)
    assert "Done: test accuracy" in errors
    assert (tmp_path / "MDI_MODEL_DIR/model.pth").is_file()
    assert (tmp_path / "MDI_CHECKPOINT_DIR/last.pth").is_file()
    assert (tmp_path / "MDI_ARTIFACT_DIR/summary.json").is_file()


def test_a_dataset_of_one_split_trains(tmp_path, runner):
    runner.dataset = write_dataset(tmp_path / "one", rows(60), ["a", "b"], name="one")
    runner("--epochs", "1")
    assert runner.summary(runner.experiments[0])["accuracy_test"] is not None


def test_a_wrong_dataset_is_one_sentence_and_exit_code_2(runner):
    runner.dataset = "./not-there"
    errors = runner(code=2)
    assert errors.strip() == "Error: There is no folder not-there."


def test_folders_and_files_whose_names_are_not_utf8_train_to_the_report(runner):
    """The first byte of each name is no UTF-8: of the dataset, of a class, of its images and of a bad one."""
    root = os.fsencode(runner.folder) + b"/\xffphotos"
    for number in range(60):
        folder = root + (b"/caf\xe9" if number % 2 else b"/tea")
        os.makedirs(folder, exist_ok=True)
        with open(folder + b"/\xfe%d.png" % number, "wb") as file:
            file.write(encoded(noise(number, channels=3)))
    with open(root + b"/tea/\xfdbad.png", "wb") as file:
        file.write(b"no image")

    runner.dataset = os.fsdecode(root)
    errors = runner("--epochs", "1", "--on-bad-image", "skip")

    (experiment,) = runner.experiments
    assert "Traceback" not in errors
    assert "No report" not in errors
    assert "tea/\\udcfdbad.png: not an image" in (experiment / "data/report.html").read_text(encoding="utf-8")
    assert "caf\\udce9" in (experiment / "data/classes.csv").read_text(encoding="utf-8")


def test_a_run_stops_early_where_it_would_have_and_a_resumed_one_at_the_same_epoch(in_process, tmp_path, capsys):
    options = {"epochs": 12, "early_stop": 2}
    straight = in_process("straight", **options)
    assert "Stopped early: validation has not improved for 2 epochs (--early-stop 2)" in capsys.readouterr().err
    epochs = straight[-1][0] + 1
    assert 3 <= epochs < 12
    summary = json.loads(next((tmp_path / "straight").glob("experiments/*/data/summary.json")).read_text())
    assert (summary["epochs"], summary["epochs_planned"], summary["stopped_early"]) == (epochs, 12, True)
    assert checkpoint.load_meta(newest_checkpoint(tmp_path / "straight")).progress.finished

    before = in_process("killed", stop_after=len(straight) - 3, save_each=True, **options)
    after = in_process("resumed", resume=str(newest_checkpoint(tmp_path / "killed")), **options)
    assert before + after == straight

    stopped = str(newest_checkpoint(tmp_path / "straight"))
    assert in_process("again", resume=stopped, **options) == []
    further = in_process("further", resume=stopped, epochs=12, early_stop=100)
    assert [further[0][0], further[-1][0]] == [epochs, 11]
