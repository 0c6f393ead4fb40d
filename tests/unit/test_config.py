"""Options are checked where they are defined, and the message names the option."""

import dataclasses

import pytest

from trainer_classification.config import PredictConfig, PrepareConfig, TrainConfig
from trainer_classification.options import options_of
from trainer_classification.recipes import RECIPES, apply_options

OLD_NAMES = [
    "project_name",
    "epochs",
    "batch_size",
    "learning_rate",
    "resize",
    "num_workers",
    "log_interval",
    "max_steps_per_epoch",
    "stop_early",
]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": -1}, "--epochs is -1, but must be between 0"),
        ({"learning_rate": -0.1}, "--learning-rate is -0.1, but must be 0 or more"),
        ({"optimizer": "lion"}, "--optimizer is 'lion', but must be one of: auto, sgd, adamw, muon"),
        ({"validation_fraction": 1.0}, "--validation-fraction is 1.0"),
    ],
)
def test_a_wrong_value_is_refused_with_the_option_and_what_it_may_be(wrong, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**wrong)


@pytest.mark.parametrize("config", [TrainConfig, PrepareConfig, PredictConfig])
def test_every_option_survives_a_web_form(config):
    """The form writes every field into the command: only plain types with a default that is not None come back."""
    for name, (_, option, default) in options_of(config).items():
        assert type(default) in (int, float, str, bool), name
        assert len(option) > 10, name


def test_the_names_of_the_old_trainer_work():
    options = options_of(TrainConfig)
    aliases = {alias for _, option, _ in options.values() for alias in option.aliases}
    assert set(OLD_NAMES) <= options.keys() | aliases


def test_the_number_of_options_does_not_creep():
    assert len(options_of(TrainConfig)) <= 64


def test_a_step_in_parts_is_not_recorded_in_one_piece():
    with pytest.raises(ValueError, match="use --compile default, or --accumulate 1"):
        TrainConfig(compile="reduce-overhead", accumulate=2)


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().epochs = 3


def test_what_the_user_sets_replaces_the_recipe_and_nothing_else():
    recipe = RECIPES["cifar10"]
    assert apply_options(TrainConfig(), recipe) == recipe
    changed = apply_options(TrainConfig(epochs=2, ema=0.0, flip="none", model="resnet50", shift=0), recipe)
    assert (changed.epochs, changed.ema, changed.model) == (2, 0.0, "resnet50")
    assert (changed.policy.flip, changed.policy.shift) == ("none", 0)
    assert (changed.batch_size, changed.policy.pad) == (recipe.batch_size, recipe.policy.pad)


def test_mnist_never_flips():
    assert RECIPES["mnist"].policy.flip == "none"


@pytest.mark.parametrize("name", ["a/b", "../b", "two\nlines", "n" * 61])
def test_a_run_is_named_by_what_can_end_a_folders_name(name):
    with pytest.raises(ValueError, match=r"--name is .* becomes part of a folder's name"):
        TrainConfig(name=name)
    assert TrainConfig(name="grün 2.5").name == "grün 2.5"


@pytest.mark.parametrize("url", ["s3://bucket/x", "gs://b", "file:///tmp/x", "memory://x", "abfss+v2://a@b/c"])
@pytest.mark.parametrize("name", ["dataset", "output_dir"])
def test_a_url_is_an_error_and_no_local_folder_of_that_name(name, url):
    with pytest.raises(ValueError, match=rf"--{name.replace('_', '-')} is '.*only local files.*mount"):
        TrainConfig(**{name: url})


@pytest.mark.parametrize("path", ["c://x", "a:b", "./s3:/x", "x/y://z"])
def test_what_is_no_url_is_a_path(path):
    assert TrainConfig(prepared=path).prepared == path
