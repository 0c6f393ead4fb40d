"""Follow a walk of CONTRIBUTING.md in a copy of the package, step by step as a contributor would."""

import importlib
import shutil
import sys
from pathlib import Path

import pytest

NAME = "trainer_classification"
PACKAGE = Path(__file__).parents[2] / "src" / NAME


class Walk:
    """A copy of the package in which a walk is followed.

    Args:
        folder: for the copy.
        monkeypatch: brings the real package back after the test.
    """

    def __init__(self, folder, monkeypatch):
        self.package = folder / NAME
        shutil.copytree(PACKAGE, self.package, ignore=shutil.ignore_patterns("__pycache__"))
        for module in [name for name in sys.modules if name.split(".")[0] == NAME]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.syspath_prepend(str(folder))

    def follow(self, steps, missing=None):
        """Change the files of all steps but the missing one.

        Args:
            steps: file -> its whole text, or a list of (text that is there, text to put in its place).
            missing: a file of `steps`, or None.
        """
        for file, change in steps.items():
            if file == missing:
                continue
            path = self.package / file
            if isinstance(change, str):
                assert not path.exists()
                path.write_text(change)
            else:
                path.write_text(replace_all(path.read_text(), change, file))
        importlib.invalidate_caches()


def replace_all(text, change, file):
    """Make each replacement; its text must be there exactly once."""
    for old, new in change:
        assert text.count(old) == 1, f"{file} has changed: update this walk, and the one in CONTRIBUTING.md"
        text = text.replace(old, new)
    return text


@pytest.fixture
def walk(tmp_path, monkeypatch):
    """A walk of which no step is done."""
    yield Walk(tmp_path, monkeypatch)
    for module in [name for name in sys.modules if name.split(".")[0] == NAME]:
        del sys.modules[module]
