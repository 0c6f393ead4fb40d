"""A command loads what it needs, and is gone when its work is done."""

import subprocess
import sys

from runner import ROOT

# For reading, decoding, tracking, reports and compiling: no part of the first step.
IDLE = [
    *("hafnia", "polars", "pyarrow", "PIL", "simplejpeg", "mlflow"),
    *("matplotlib", "jinja2", "rich", "torchvision", "torch._dynamo", "torch._inductor"),
    *("scipy.linalg", "numba.np.arraymath"),
]

LOOK = "print([name for name in {names} if name in sys.modules], flush=True)"
FIRST_STEP = f"""
import os, runpy, sys
from trainer_classification.training.step import Step
def look(*_):
    {LOOK}
    os._exit(0)
Step.__call__ = look
runpy.run_path(sys.argv[0], run_name="__main__")
"""
COMMAND = f"""
import runpy, sys
from trainer_classification import cli
cli.leave = lambda code: None
runpy.run_path(sys.argv[0], run_name="__main__")
{LOOK}
"""


def loaded(runner, program, names, command):
    """Which of some modules a command in the program has loaded by the line that looks."""
    program = program.format(names=names)
    start = f"import sys; sys.argv = {command[1:]!r}\n"
    done = subprocess.run(
        [sys.executable, "-c", start + program],
        cwd=runner.folder,
        env=runner.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


def test_the_first_step_of_a_prepared_dataset_waits_for_no_idle_module(runner):
    runner("--epochs", "1")
    assert loaded(runner, FIRST_STEP, IDLE, runner.command()) == "[]"
    speed = runner.command("--model", "speednet", "--optimizer", "muon")
    assert loaded(runner, FIRST_STEP, IDLE, speed) == "[]"


def test_prepare_of_a_prepared_dataset_loads_no_library(runner):
    script = str(ROOT / "scripts/prepare.py")
    command = [sys.executable, script, "--dataset", str(runner.dataset), "--prepared", str(runner.folder / "prepared")]
    subprocess.run(command, cwd=runner.folder, env=runner.environment, check=True, capture_output=True)
    assert loaded(runner, COMMAND, [*IDLE, "numba", "torch"], command) == "[]"


def test_help_and_wrong_options_load_no_library(runner):
    for options in (["--help"], ["--epocks", "3"], ["--epochs", "x"]):
        command = [sys.executable, str(ROOT / "scripts/train.py"), *options]
        assert loaded(runner, COMMAND, [*IDLE, "numba", "torch"], command) == "[]"


def test_what_is_odd_about_labels_is_told_without_a_library(runner):
    program = f"from trainer_classification.preparation.findings import log_findings\n{LOOK}"
    assert loaded(runner, program, [*IDLE, "torch"], ["", ""]) == "[]"
