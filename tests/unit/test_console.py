"""Lines for the terminal fit it, and durations do not follow a clock that is set."""

import ast
import io
import os
from pathlib import Path

import pytest

import trainer_classification
from trainer_classification import console


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def fileno(self):
        return 2


@pytest.mark.parametrize(
    ("columns", "shown"), [(20, "0123456789012345678"), (100, "0123456789" * 3), (0, "0123456789" * 3)]
)
def test_a_live_line_is_cut_at_the_edge_of_the_terminal(monkeypatch, columns, shown):
    """The terminal would break it, and only the last part would be written over."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(os, "get_terminal_size", lambda descriptor: os.terminal_size((columns, 24)))
    console.live_line("0123456789" * 3)
    assert terminal.getvalue() == "\r\x1b[K" + shown


def test_a_terminal_that_does_not_tell_its_width_gets_whole_lines(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)

    def fail(descriptor):
        raise OSError("no terminal")

    monkeypatch.setattr(os, "get_terminal_size", fail)
    console.live_line("0123456789")
    assert terminal.getvalue() == "\r\x1b[K0123456789"


def test_no_duration_is_measured_by_the_wall_clock():
    """It is set forward and back: summaries had negative seconds, and budgets ended at once."""
    package = Path(trainer_classification.__file__).parent
    for path in [*package.rglob("*.py"), *(package.parents[1] / "scripts").glob("*.py")]:
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        assert "time.time" not in map(ast.unparse, calls), path
