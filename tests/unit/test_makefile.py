"""What `make` would run, without running it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="there is no make")


def dry_run(*arguments, **environment):
    command = ["make", "-n", *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ("", "--dataset samples/mnist"),
        ("--epochs 3", "--dataset samples/mnist --epochs 3"),
        ("--dataset photos --epochs 3", "--dataset photos --epochs 3"),
        ("--dataset=photos", "--dataset=photos"),
        ("--config run.toml", "--config run.toml"),
    ],
)
def test_the_sample_gives_way_to_the_users_dataset(options, wanted):
    done = dry_run("train", f"ARGS={options}")
    line = next(line for line in done.stdout.splitlines() if "scripts/train.py" in line)
    assert " ".join(line.partition("scripts/train.py")[2].split()) == wanted


def test_another_system_is_told_in_a_sentence_what_works():
    done = dry_run("--always-make", "train", "OTHER_SYSTEM=Darwin")
    assert done.returncode != 0
    assert "Linux x86-64 alone, and this is Darwin: use WSL2 on Windows" in done.stderr
    assert "scripts/train.py" not in done.stdout


@pytest.mark.parametrize("system", ["Linux aarch64", "Darwin arm64"])
def test_another_processor_is_refused_too(system, tmp_path):
    uname = tmp_path / "uname"
    kernel = system.split()[0]
    uname.write_text(f"#!/bin/sh\ncase $* in -s) echo {kernel};; *) echo {system};; esac\n")
    uname.chmod(0o755)

    done = dry_run("--always-make", "train", PATH=f"{tmp_path}:{os.environ['PATH']}")

    assert done.returncode != 0
    assert "Linux x86-64 alone" in done.stderr
