"""Which options a resumed run takes from its checkpoint, and which of those given beside it are refused."""

import dataclasses

import pytest

from helpers import meta_of
from trainer_classification.checkpoint import file as checkpoint
from trainer_classification.config import TrainConfig
from trainer_classification.options import given_options, mark_given
from trainer_classification.training.resume_options import restore_options
from trainer_classification.training.start_checkpoint import reads_options

RUN = TrainConfig(
    dataset="tiny", project_name="p", seed=5, epochs=3, batch_size=8, workers=7, weights="w.pth", preflight=True
)


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """Writes the checkpoint of a run: resnet-small, 28 px, 3 epochs of batches of 8 at a rate of 0.1."""
    monkeypatch.delenv("HAFNIA_CLOUD", raising=False)

    def save(config=RUN, times=(), folder="run/checkpoints"):
        path = tmp_path / folder / "last.pth"
        path.parent.mkdir(parents=True)
        meta = meta_of()
        values = config if isinstance(config, dict) else dataclasses.asdict(config)
        progress = dataclasses.replace(meta.progress, times=times)
        checkpoint.save(path, {"optimizer": {}}, dataclasses.replace(meta, config=values, progress=progress))
        return path

    return save


def restored(path, **options):
    return restore_options(TrainConfig(resume=str(path), **options))


def test_options_are_those_of_the_run_but_not_those_of_its_start(saved):
    path = saved()
    config = restored(path)
    expected = dataclasses.replace(RUN, weights="", preflight=False, resume=str(path))
    assert config == expected
    assert restore_options(config) is not config
    assert restore_options(config) == config


def test_options_of_the_machine_may_change(saved):
    config = restored(saved(), workers=3, loader="torch", accumulate=2, tta="flip", dataset="/moved/tiny")
    assert (config.workers, config.loader, config.accumulate, config.tta) == (3, "torch", 2, "flip")
    assert (config.dataset, config.seed) == ("/moved/tiny", 5)


def test_epochs_and_learning_rate_may_change(saved):
    config = restored(saved(), epochs=9, learning_rate=0.5)
    assert (config.epochs, config.learning_rate, config.batch_size) == (9, 0.5, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 2}, r"its seed differs \(5 / 2\)"),
        ({"best_by": "loss"}, r"its best_by differs \(accuracy / loss\)"),
        ({"model": "resnet18"}, r"its recipe differs \(model resnet-small / resnet18\)"),
        ({"recipe": "speed"}, "its network is resnet-small, which is not that of --recipe speed"),
        ({"batch_size": 32}, r"its recipe differs \(batch_size 8 / 32\)"),
        ({"optimizer": "adamw"}, r"its recipe differs \(optimizer sgd / adamw\)"),
        ({"image_size": 64}, r"its image_size differs \(28 / 64\)"),
        ({"validation_fraction": 0.3}, r"its validation_fraction differs \(0\.1 / 0\.3\)"),
        ({"flip": "random"}, r"its recipe differs \(policy"),
        ({"cutmix": 1.0}, r"its recipe differs \(cutmix 0\.0 / 1\.0\)"),
    ],
)
def test_what_cannot_change_is_refused_and_names_the_way(saved, options, message):
    path = saved()
    with pytest.raises(ValueError, match=rf"{message}.*--weights {path}"):
        restored(path, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"model": "resnet-small"},
        {"image_size": 28},
        {"batch_size": 8},
        {"seed": 5},
        {"eval_crop": 0.8},
        {"flip": "none"},
    ],
)
def test_what_is_repeated_is_no_change(saved, options):
    assert restored(saved(), **options).epochs == 3


def test_an_option_that_is_given_counts_even_at_its_default(saved):
    """On a command line `--seed 0` is not the same as nothing."""
    path = saved()
    config = TrainConfig(resume=str(path))
    mark_given(config, {"resume", "seed"})
    with pytest.raises(ValueError, match=r"its seed differs \(5 / 0\)"):
        restore_options(config)
    assert given_options(TrainConfig(epochs=3, seed=0)) == {"epochs"}


def test_a_budget_goes_on_as_it_was_planned(saved):
    path = saved(dataclasses.replace(RUN, budget="20s"), times=(1.0, 1.0, 1.0, 1.0))
    assert restored(path).budget == "20s"
    assert restored(path, budget="20s", batch_size=64).budget == "20s"
    with pytest.raises(ValueError, match=r"--budget plans the epochs.*--weights"):
        restored(path, epochs=9)


def test_options_by_their_earlier_names_are_read(saved):
    old = {key: value for key, value in dataclasses.asdict(RUN).items() if key != "workers"}
    assert restored(saved(old | {"num_workers": 4, "gone": 1})).workers == 4


@pytest.mark.parametrize("resume", ["run", "run/checkpoints", "run/checkpoints/last.pth"])
def test_a_run_is_named_by_its_folder_or_its_checkpoint(saved, tmp_path, resume):
    saved()
    assert restored(tmp_path / resume).seed == 5


def test_a_folder_without_a_checkpoint_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("HAFNIA_CLOUD", raising=False)
    with pytest.raises(ValueError, match=r"There is no checkpoint in .*: it holds neither checkpoints/last\.pth nor"):
        restored(tmp_path)


def test_auto_takes_the_options_of_the_run_that_it_finds_but_not_in_the_cloud(saved, tmp_path, monkeypatch):
    saved(folder="out/experiments/one/checkpoints")
    config = TrainConfig(resume="auto", output_dir=str(tmp_path / "out"), project_name="p")
    assert restore_options(config) == dataclasses.replace(
        RUN, weights="", preflight=False, resume="auto", output_dir=config.output_dir
    )
    other = dataclasses.replace(config, project_name="q")
    assert restore_options(other) is other
    monkeypatch.setenv("HAFNIA_CLOUD", "true")
    assert restore_options(config) is config
    assert reads_options(TrainConfig(resume="last.pth"))


def test_on_several_machines_auto_goes_by_the_options_that_are_given(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.delenv("HAFNIA_CLOUD", raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for size, expected in (("2", True), ("4", False)):
        monkeypatch.setenv("WORLD_SIZE", size)
        assert reads_options(TrainConfig(resume="auto")) is expected
