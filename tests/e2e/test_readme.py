"""Every command of the README runs as it is written there."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
EARLIER = {line: block.splitlines()[:number] for block in BLOCKS for number, line in enumerate(block.splitlines())}
LINKS = re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "README.md").read_text())


NEED_A_RUN = ("predict.py", "evaluate.py", "explain.py", "export.py")
HAS_EXPORT = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime", "openvino"))


def run(folder, command):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HAFNIA", "MDI", "MLFLOW"))}
    environment["HOME"] = str(folder)
    return subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The repository as a user has it, with this environment as .venv."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("scripts", "benchmarks", "samples", "src"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def test_the_readme_has_commands():
    assert len(COMMANDS) > 8


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_runs(clone, command):
    if command.startswith("make "):
        target = command.split()[1]
        planned = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert planned.returncode == 0, planned.stderr
        return  # the tests are this very run, and training is the next command's like
    if "export.py" in command and not HAS_EXPORT:
        pytest.skip("the extra `export` is not installed")
    if any(name in command for name in NEED_A_RUN) and not (clone / ".data/experiments").exists():
        run(clone, ".venv/bin/python scripts/train.py --dataset samples/mnist --epochs 1")
    for line in [line for line in EARLIER[command] if "--name" in line]:  # where another process ran it
        if not list(clone.glob(f".data/experiments/*-{line.split()[-1]}")):
            run(clone, line)
    done = run(clone, command)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("path", LINKS)
def test_a_link_of_the_readme_leads_somewhere(path):
    assert (ROOT / path).exists()


def test_the_layout_names_files_that_are_there():
    layout = (ROOT / "README.md").read_text().split("## Layout")[1]
    for name in re.findall(r"\b(\w+\.py)\b", layout):
        assert list(ROOT.glob(f"*/{name}")) or list((ROOT / "src").rglob(name)), name
