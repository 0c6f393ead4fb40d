"""A command goes on when nobody reads what it says."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, pathlib, subprocess, sys
from trainer_classification import cli, config
def command(_):
    for number in range(2000):
        print("a line on stdout", number, flush=True)
        print("a line on stderr", number, file=sys.stderr)
    print("rest without its end", end="")
    pathlib.Path({path!r}).write_text("whole")
cli.leave(cli.run(config.{config}, command, []))
"""


@pytest.mark.parametrize("redirect", ["| head -1", "2>&1 | head -1", ">&-", "2>&-", ">&- 2>&-", "> /dev/full"])
def test_a_training_goes_on_when_its_output_leads_nowhere(tmp_path, redirect):
    program = PROGRAM.format(path=str(tmp_path / "output"), config="TrainConfig")
    shell = f'set -o pipefail; "$0" -c "$1" {redirect}'
    done = subprocess.run(["bash", "-c", shell, sys.executable, program], capture_output=True, text=True)
    assert done.returncode == 0
    assert (tmp_path / "output").read_text() == "whole"
    assert "Error" not in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_read_arrives_whole_and_in_order(tmp_path):
    program = PROGRAM.format(path=str(tmp_path / "output"), config="TrainConfig")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "".join(f"a line on stdout {n}\n" for n in range(2000)) + "rest without its end"
    assert done.stderr == "".join(f"a line on stderr {n}\n" for n in range(2000))


def test_files_do_not_get_the_place_of_a_closed_stdout(tmp_path):
    program = """
import os
from trainer_classification import cli, config
def command(_):
    with open(PATH, "w"):
        os.write(1, b"what a library prints")
cli.leave(cli.run(config.PrepareConfig, command, []))
""".replace("PATH", repr(str(tmp_path / "output")))
    subprocess.run(["bash", "-c", 'exec "$0" -c "$1" >&-', sys.executable, program], check=True)
    assert (tmp_path / "output").read_text() == ""


def test_help_that_nobody_reads_is_no_error():
    program = "from trainer_classification import cli, config; cli.run(config.PredictConfig, print, ['--help'])"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", program], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
