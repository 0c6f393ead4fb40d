"""Print the help of a command line: its options by topic, in two columns."""

from __future__ import annotations

import inspect
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from trainer_classification.options import Option, flag, options_of

_FLAGS = ("--help", "-h")
_NAME_COLUMNS = 25
_MAX_COLUMNS = 120
_FILE_HELP = "TOML or JSON file of options by name; those of the command line win."
_FILE_GROUP = "Run"  # if the command has it, else the first
_UNSET_DEFAULTS = ("", 0, -1, "auto")


def asks_for_help(tokens: Sequence[str]) -> bool:
    """Return whether a command line asks for help."""
    for token in tokens:
        if token == "--":
            return False
        if token in _FLAGS:
            return True
    return False


def print_help(config_class: type[Any]) -> None:
    """Print what a command does, and its options.

    Args:
        config_class: a dataclass of `config.py`.
    """
    options = options_of(config_class)
    takes_rest = any(option.takes_rest for _, option, _ in options.values())
    columns = min(shutil.get_terminal_size().columns, _MAX_COLUMNS)

    print(f"python {sys.argv[0]} [OPTIONS]{' [ARGS]' if takes_rest else ''}\n")
    for paragraph in inspect.cleandoc(config_class.__doc__ or "").split("\n\n"):
        print(textwrap.fill(" ".join(paragraph.split()), columns) + "\n")
    for group, entries in _group(options).items():
        print(f"{group}:")
        for name, text in entries:
            print("\n".join(_format_entry(name, text, columns)))


def _group(options: dict[str, tuple[Any, Option, Any]]) -> dict[str, list[tuple[str, str]]]:
    """Return name and text of each option, by topic."""
    groups = {"Commands": [("--help", "Show this help."), ("--version", "Show the version.")]}
    for name, (kind, option, default) in options.items():
        shown = f"{name.upper()} ..." if option.takes_rest else flag(name)
        entry = (shown, _describe_option(kind, option, default))
        groups.setdefault(option.group, []).append(entry)

    of_file = groups.get(_FILE_GROUP) or next(iter(list(groups.values())[1:]))
    of_file.append(("--config", _FILE_HELP))
    return groups


def _format_entry(name: str, text: str, columns: int) -> Iterator[str]:
    first, *others = textwrap.wrap(text, columns - _NAME_COLUMNS)
    yield f"  {name:{_NAME_COLUMNS - 2}}{first}"
    for line in others:
        yield " " * _NAME_COLUMNS + line


def _describe_option(kind: Any, text: str, default: Any) -> str:
    """Return help text, choices and default of an option.

    The help text explains a default that means unset.
    """
    choices = get_args(kind)
    parts = [text]
    if choices:
        parts.append("{" + ", ".join(map(str, choices)) + "}")
    if default not in _UNSET_DEFAULTS:
        parts.append(f"[{default}]")
    return " ".join(parts)
