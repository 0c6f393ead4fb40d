"""Command lines and launch forms come from the configs, and every value survives the trip."""

import errno
import json
import os
import shlex
import signal
import subprocess
import sys

import pytest

from trainer_classification import cli, forms
from trainer_classification.config import COMMANDS, EvaluateConfig, PredictConfig, PrepareConfig, TrainConfig
from trainer_classification.options import options_of


def parsed(config, argv):
    got = []
    code = cli.run(config, got.append, argv)
    return code, got[0] if got else None


def test_options_are_taken_in_both_spellings_and_switches_can_be_negated():
    argv = ["--batch_size", "7", "--learning-rate", "0.5", "--no-stop-early", "--model", "resnet50"]
    code, config = parsed(TrainConfig, argv)
    assert code == 0
    assert config == TrainConfig(batch_size=7, learning_rate=0.5, model="resnet50")


@pytest.mark.parametrize(
    ("config", "old", "values"),
    [
        (TrainConfig, "--resize 64 --num-workers 2", {"image_size": 64, "workers": 2}),
        (TrainConfig, "--num_workers=2", {"workers": 2}),
        (PrepareConfig, "--out folder", {"prepared": "folder"}),
        (EvaluateConfig, "--num-workers 2", {"workers": 2}),
    ],
)
def test_earlier_names_are_taken_and_not_listed(config, old, values, capsys):
    assert parsed(config, old.split()) == (0, config(**values))
    cli.run(config, print, ["--help"])
    shown = capsys.readouterr().out.split()
    assert not {"--resize", "--num-workers", "--out"} & set(shown)


def test_one_thing_has_one_name_in_all_commands():
    for name in ("prepared", "workers"):
        assert all(name in options_of(config) for config in (TrainConfig, PrepareConfig, EvaluateConfig))
    assert all("image_size" in options_of(config) for config in (TrainConfig, PrepareConfig))


@pytest.mark.parametrize("argv", [["--epochs", "None"], ["--epochs=null"], ["--dataset", "null"], []])
def test_what_a_form_left_empty_is_unset(argv):
    assert parsed(TrainConfig, argv) == (0, TrainConfig())


@pytest.mark.parametrize("argv", [["--bogus", "1"], ["5"], ["--epochs", "many"], ["--epochs", "-2"]])
def test_a_wrong_command_line_is_an_error_without_a_traceback(argv, capsys):
    code, config = parsed(TrainConfig, argv)
    assert (code, config) == (2, None)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--epochs 2.99", "--epochs is '2.99', but must be a whole number."),
        ("--batch-size=0.5", "--batch-size is '0.5', but must be a whole number."),
        ("--seed inf", "--seed is 'inf', but must be a whole number."),
        ("--resize 64.5", "--image-size is '64.5', but must be a whole number."),
        ("--learning-rate fast", "--learning-rate is 'fast', but must be a number."),
        ("--device gpu", "--device is 'gpu', but must be one of: auto, cpu, cuda (cuda is what 'gpu' is elsewhere)."),
        ("--schedule cosin", "one of: auto, cosine, triangular, constant (did you mean cosine?)."),
        ("--epochs", "--epochs needs a value."),
        ("--epochs 1 --epochs 2", "--epochs is given more than once."),
    ],
)
def test_a_wrong_value_is_one_sentence_that_says_what_is_right(argv, message, capsys):
    assert parsed(TrainConfig, argv.split()) == (2, None)
    error = capsys.readouterr().err
    assert error.startswith("Error: --")
    assert error.endswith(message + "\n")
    assert error.count("\n") == 1


def test_whole_numbers_in_other_notations_are_taken():
    assert parsed(TrainConfig, ["--epochs", "3.0", "--batch-size=1e2"]) == (0, TrainConfig(epochs=3, batch_size=100))


def test_errors_of_the_user_are_one_line_and_ours_keep_their_traceback(capsys):
    def fail(error):
        def function(_):
            raise error

        return function

    assert cli.run(TrainConfig, fail(ValueError("what\nto do")), []) == 2
    assert capsys.readouterr().err == "Error: what to do\n"
    for number in (errno.ENOSPC, errno.EDQUOT):
        assert cli.run(TrainConfig, fail(OSError(number, "No space", "x.bin")), []) == 2
        assert "disk is full (x.bin)" in capsys.readouterr().err
    assert cli.run(TrainConfig, fail(KeyboardInterrupt()), []) == 130
    assert "run the same command to continue" in capsys.readouterr().err
    assert cli.run(PredictConfig, fail(KeyboardInterrupt()), []) == 130
    assert "the same command starts from the first image" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        cli.run(TrainConfig, lambda _: 1 / 0, [])


def test_help_names_every_option_with_its_meaning(capsys):
    assert cli.run(TrainConfig, print, ["--help"]) == 0
    shown = capsys.readouterr().out
    for name in options_of(TrainConfig):
        assert "--" + name.replace("_", "-") in shown
    assert "<split>/<class>/*" in "".join(shown.replace("│", "").split())


def test_help_fits_on_two_screens_grouped_by_topic(capsys, monkeypatch):
    """Screens of 50 lines of 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")
    cli.run(TrainConfig, print, ["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 100
    assert max(map(len, lines)) <= 100
    groups = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert sorted(groups[-5:]) == ["Augmentation:", "Data:", "Model:", "Optimization:", "Run:"]


@pytest.mark.parametrize("script", COMMANDS)
def test_the_committed_launch_form_is_the_one_the_options_make(script):
    committed = (forms.SCRIPTS / f"{script}.schema.json").read_text()
    assert committed == forms.text(script), "stale: run make forms"


OTHER = {bool: True, int: 3, float: 0.25, str: "my own name", "formats": "tar,array"}


@pytest.mark.parametrize(
    ("script", "config"), [("train", TrainConfig), ("prepare", PrepareConfig), ("evaluate", EvaluateConfig)]
)
def test_every_value_survives_form_command_and_config(script, config):
    options = options_of(config)
    values = {}
    for name, (kind, _, default) in options.items():
        choices = getattr(kind, "__args__", ())
        values[name] = next(c for c in choices if c != default) if choices else OTHER.get(name, OTHER[type(default)])
    schema = forms.schema(script)
    form = schema.model_dump(mode="json")["json_schema"]["properties"]
    assert form.keys() == options.keys()
    assert all(form[name]["description"] == str(option) for name, (_, option, _) in options.items())
    command = shlex.split(" ".join(schema.command_args_from_form_data(values)))
    assert command[:2] == ["python", f"scripts/{script}.py"]
    assert parsed(config, command[2:]) == (0, config(**values))
    defaults = {name: default for name, (_, _, default) in options.items()}
    unchanged = shlex.split(" ".join(schema.command_args_from_form_data(defaults)))
    assert parsed(config, unchanged[2:]) == (0, config())
    json.dumps(form)


@pytest.mark.parametrize(
    ("tokens", "values"),
    [
        (["--a", "'two", "words'", "--b", "1"], ["--a", "two words", "--b", "1"]),
        (["''", '"it\'s"'], ["", "it's"]),
        (["it's", "'open", "end"], ["it's", "'open", "end"]),
        (["'"], ["'"]),
    ],
)
def test_values_in_quotes_that_no_shell_has_read_are_joined(tokens, values):
    assert cli.join_quoted(tokens) == values


STOPS = [(signal.SIGTERM, 143, "Terminated"), (signal.SIGINT, 130, "Interrupted"), (signal.SIGHUP, 129, "Terminated")]


@pytest.fixture
def restored_handlers():
    before = {number: signal.getsignal(number) for number, _, _ in STOPS}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code", "word"), STOPS)
def test_a_signal_unwinds_the_command_once_and_later_ones_are_ignored(number, code, word, capsys, restored_handlers):
    cleaned = []

    def command(_):
        try:
            os.kill(os.getpid(), number)
        finally:
            for other, _, _ in STOPS:
                os.kill(os.getpid(), other)
            cleaned.append(True)

    assert cli.run(TrainConfig, command, []) == code
    os.kill(os.getpid(), number)  # while Python is torn down
    assert capsys.readouterr().err == f"{word}. Nothing is lost: run the same command to continue.\n"
    assert cleaned == [True]


def test_a_command_that_ends_by_itself_leaves_the_handlers_as_they_were(restored_handlers):
    assert cli.run(TrainConfig, lambda _: None, []) == 0
    assert {number: signal.getsignal(number) for number in restored_handlers} == restored_handlers


def test_a_signal_that_is_ignored_as_by_nohup_stays_ignored(restored_handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert cli.run(TrainConfig, lambda _: os.kill(os.getpid(), signal.SIGHUP), []) == 0


def test_a_command_that_hangs_while_it_cleans_up_ends_all_the_same():
    program = """
import os, signal, threading
from trainer_classification import cli
from trainer_classification.config import TrainConfig
def command(_):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        threading.Event().wait()
cli.leave(cli.run(TrainConfig, command, []))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (143, "Terminated. Nothing is lost: run the same command to continue.\n")


LAUNCHED = dict.fromkeys(("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"), "1")  # torchrun's


@pytest.mark.parametrize("environment", [LAUNCHED, {}])
def test_a_process_ends_with_its_code_and_output_before_python_is_torn_down(environment):
    program = "import atexit; from trainer_classification import cli; atexit.register(print, 'torn down')"
    program += "; print('said'); cli.leave(3)"
    clean = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    done = subprocess.run([sys.executable, "-c", program], env=clean | environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "said\n")


@pytest.mark.parametrize(
    ("argv", "paths"),
    [
        (["a.jpg", "--top-k", "2", "two words.jpg"], "a.jpg\ntwo words.jpg"),
        (["--top-k", "2", "-"], "-"),
        (["--", "-a.jpg"], "-a.jpg"),
        (["--paths", "'two", "words.jpg'"], "two words.jpg"),
        (["--paths", ""], ""),
        ([], ""),
    ],
)
def test_arguments_without_a_name_are_the_paths_and_a_form_may_name_them(argv, paths):
    code, config = parsed(PredictConfig, argv)
    assert (code, config.paths) == (0, paths)


def test_a_wrong_option_is_not_taken_for_a_path(capsys):
    assert parsed(PredictConfig, ["a.jpg", "--bogus", "1"]) == (2, None)
    assert "--bogus" in capsys.readouterr().err


@pytest.mark.parametrize("left_out", [["paths"], ["model_dir", "dataset_dir", "output_dir"]])
def test_every_value_of_either_door_of_predict_survives_form_command_and_config(left_out):
    options = {name: of for name, of in options_of(PredictConfig).items() if name not in left_out}
    values = {}
    for name, (kind, _, default) in options.items():
        choices = getattr(kind, "__args__", ())
        values[name] = next(c for c in choices if c != default) if choices else OTHER[type(default)]
    schema = forms.schema("predict")
    command = shlex.split(" ".join(schema.command_args_from_form_data(values)))
    assert parsed(PredictConfig, command[2:]) == (0, PredictConfig(**values))
