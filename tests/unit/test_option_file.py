"""Options in a file are those of the command line, which wins."""

import json

import pytest

from trainer_classification import cli
from trainer_classification.config import PrepareConfig, TrainConfig


def parsed(config, *argv):
    got = []
    code = cli.run(config, got.append, [str(token) for token in argv])
    return code, got[0] if got else None


@pytest.fixture
def write(tmp_path):
    def write_file(text, name="run.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def test_a_file_gives_options_and_the_command_line_wins(write):
    path = write('epochs = 3\nbatch-size = 64\nstop_early = true\ndataset = "zwölf Fotos"\nresize = 32\n')
    wanted = TrainConfig(epochs=3, batch_size=64, stop_early=True, dataset="zwölf Fotos", image_size=32)
    assert parsed(TrainConfig, "--config", path) == (0, wanted)

    wanted = TrainConfig(epochs=9, batch_size=7, dataset="zwölf Fotos", image_size=64)
    argv = ["--epochs", 9, f"--config={path}", "--batch_size=7", "--no-stop-early", "--image-size", 64]
    assert parsed(TrainConfig, *argv) == (0, wanted)


def test_a_json_file_that_a_run_could_have_written_is_taken(write):
    path = write(json.dumps({"validation_fraction": 0.0, "verify": False, "beton_side": -1}), "run.json")
    assert parsed(PrepareConfig, "--config", path) == (0, PrepareConfig(validation_fraction=0.0, beton_side=-1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "has 'epoch', which is no option"),
        ("epochs = 2.5", "--epochs is '2.5', but must be a whole number"),
        ("epochs = -2", "--epochs is -2, but must be between 0 and 100000"),
        ("epochs = [1, 2]", "epochs is [1, 2], but must be a text, a number, true or false"),
        ("image_size = 3\nresize = 3", "has --image-size twice"),
        ("epochs: 3", "is no TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_sentence_with_its_name(write, text, message, capsys):
    path = write(text)
    assert parsed(TrainConfig, "--config", path) == (2, None)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"Error: {path}")
    assert message in error


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--config", "none.toml"], "There is no file none.toml"),
        (["--config"], "--config needs a TOML or JSON file"),
        (["--config=a", "--config=b"], "--config is given more than once"),
    ],
)
def test_a_file_that_is_not_there_is_one_sentence(argv, message, capsys):
    assert parsed(TrainConfig, *argv) == (2, None)
    assert message in capsys.readouterr().err


def test_the_version_is_that_of_the_package(capsys):
    assert cli.run(TrainConfig, print, ["--version"]) == 0
    assert capsys.readouterr().out.strip() == cli._version()
