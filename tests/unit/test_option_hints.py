"""What people of other tools type is answered with the option that does it here."""

from pathlib import Path

import pytest

from trainer_classification import cli, option_hints
from trainer_classification.config import COMMANDS, EvaluateConfig, PrepareConfig, TrainConfig
from trainer_classification.options import options_of


def error_of(capsys, config, *argv):
    assert cli.run(config, print, argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("typed", "option"),
    [
        ("--lr", "--learning-rate"),
        ("--lr0", "--learning-rate"),
        ("--batch", "--batch-size"),
        ("-b", "--batch-size"),
        ("--epoch", "--epochs"),
        ("--imgsz", "--image-size"),
        ("--img-size", "--image-size"),
        ("--img_size", "--image-size"),
        ("--pretrained", "--weights imagenet"),
        ("--initial-checkpoint", "--weights"),
        ("-j", "--workers"),
        ("--data", "--dataset"),
        ("--data-dir", "--dataset"),
        ("--project", "--project-name"),
        ("--wd", "--weight-decay"),
        ("--opt", "--optimizer"),
        ("--sched", "--schedule"),
        ("--warmup-epochs", "--warmup-fraction"),
        ("--smoothing", "--label-smoothing"),
        ("--fliplr", "--flip"),
        ("--batchsise", "--batch-size"),
        ("--leraning-rate", "--learning-rate"),
        ("--imgsiz", "--image-size"),
        ("--LR", "--learning-rate"),
        ("--patience", "--early-stop"),
        ("--class-weight", "--class-weights"),
        ("--hsv-s", "--color-jitter"),
        ("--reprob", "--erasing"),
    ],
)
def test_an_unknown_option_names_the_one_that_does_it(typed, option, capsys):
    error = error_of(capsys, TrainConfig, typed, "1")
    assert error.startswith(f"Error: There is no option {typed}")
    assert option in error


@pytest.mark.parametrize("typed", ["--degrees", "--dropout", "--mosaic"])
def test_what_nothing_does_yet_is_said(typed, capsys):
    assert "nothing here does that yet: " in error_of(capsys, TrainConfig, typed, "1")


def test_an_option_of_another_command_names_the_command(capsys):
    error = error_of(capsys, PrepareConfig, "--lr", "1")
    assert "--learning-rate is an option of train.py" in error
    assert "--json-file is an option of evaluate.py" in error_of(capsys, TrainConfig, "--json-file", "1")


def test_what_is_like_nothing_leads_to_the_help(capsys):
    error = error_of(capsys, TrainConfig, "--xyzzy", "1")
    assert error == "Error: There is no option --xyzzy: --help lists those there are.\n"


def test_a_folder_without_its_option_says_how_to_give_it(tmp_path, capsys):
    for config in (TrainConfig, EvaluateConfig, PrepareConfig):
        assert f"write --dataset {tmp_path}." in error_of(capsys, config, str(tmp_path))
    assert "such as --dataset mnist." in error_of(capsys, TrainConfig, str(Path("no/such/folder")))


def test_values_in_the_form_of_ultralytics_are_answered(capsys):
    assert "write --epochs 3." in error_of(capsys, TrainConfig, "epochs=3")
    assert "write --image-size 64." in error_of(capsys, TrainConfig, "imgsz=64")


def test_every_hint_leads_to_an_option_that_exists_and_hides_none():
    fields = {name for config in COMMANDS.values() for name in options_of(config)}
    assert option_hints._SAME.keys() <= fields
    hinted = [*option_hints._REPLACEMENTS, *option_hints._MISSING, *option_hints._EXPLAINED]
    assert len(hinted) == len(set(hinted))
    assert set(hinted) - set(options_of(TrainConfig)) == set(hinted)
    choices = {name: set(options_of(TrainConfig)[name][0].__args__) for name in option_hints._VALUES}
    assert all(set(option_hints._VALUES[name].values()) <= choices[name] for name in choices)
