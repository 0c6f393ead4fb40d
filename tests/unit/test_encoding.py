"""Texts are UTF-8 whatever the locale, and no character of a name ends a run."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [*sorted((ROOT / "src").rglob("*.py")), *sorted((ROOT / "scripts").glob("*.py"))]


def calls_without_encoding(tree):
    """Line numbers of the calls that would read or write a text in the locale's encoding."""
    for node in ast.walk(tree):
        # A member of a zip takes bytes, though its mode says "w".
        if not isinstance(node, ast.Call) or {"encoding", "force_zip64"} & {keyword.arg for keyword in node.keywords}:
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        modes = [text for text in texts if text and set(text) <= set("rwaxbt+")]
        is_text_file = name in ("open", "fdopen") and any("b" not in mode for mode in modes)
        if name in ("read_text", "write_text") or is_text_file:
            yield node.lineno


def test_the_check_finds_what_it_looks_for():
    code = 'p.read_text()\np.open("w")\np.open("rb")\nopen(f, "r", encoding="utf-8")\np.write_text(t)\n'
    assert list(calls_without_encoding(ast.parse(code))) == [1, 2, 5]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_text_file_names_its_encoding(path):
    lines = list(calls_without_encoding(ast.parse(path.read_text(encoding="utf-8"))))
    assert lines == [] or path.name == "archive.py"  # which opens members of zips and tars


PROGRAM = """
from trainer_classification import cli
from trainer_classification.config import PrepareConfig
def fail(config):
    print("\\u2192", config.dataset)
    raise ValueError("There is no " + config.dataset)
raise SystemExit(cli.run(PrepareConfig, fail))
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_name_that_the_terminal_cannot_show_is_no_traceback(encoding):
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    command = [sys.executable, "-c", PROGRAM, "--dataset", b"caf\xe9-\xe6\x97\xa5"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(b"Error: There is no caf")
