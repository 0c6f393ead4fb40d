"""Declare, list and check the options of a command.

An option is a field of a frozen dataclass (`config.py`), annotated with an
`Option`. Fields are int, float, str, bool or Literal, and no default is None; "",
0, -1 and "auto" mean unset. Annotations must not be deferred (no `from __future__
import annotations`), because the SDK's form builder reads them.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, Self, get_args, get_type_hints

from trainer_classification.storage import check_url, is_url, local_path


class Option(str):
    """The help text of a field, with its group in `--help` and the values it may take.

    It is a str because the SDK's form builder takes a field's description from a
    str in its annotation.

    Attributes:
        group: heading in `--help`.
        at_least: smallest value of a number.
        at_most: largest value of a number.
        aliases: earlier names of the field, still taken from a command line and
            not listed in `--help`.
        takes_rest: whether a str also takes the arguments without a name, and
            then holds one a line.
        is_address: whether a str is that of a server, which may be a URL.
        takes_url: whether a str is a folder or the URL of one in object storage.
    """

    group: str
    at_least: float
    at_most: float
    takes_rest: bool
    is_address: bool
    takes_url: bool
    aliases: tuple[str, ...]

    def __new__(
        cls,
        text: str,
        group: str = "Run",
        at_least: float = -math.inf,
        at_most: float = math.inf,
        *,
        takes_rest: bool = False,
        aliases: tuple[str, ...] = (),
        is_address: bool = False,
        takes_url: bool = False,
    ) -> Self:
        """Make an option with this help text.

        Args:
            text: what the option means.
            group: heading in `--help`.
            at_least: smallest value of a number.
            at_most: largest value of a number.
            aliases: earlier names of the field.
            takes_rest: whether a str also takes the arguments without a name, and
                then holds one a line.
            is_address: whether a str is the address of a server.
            takes_url: whether a str is a folder or the URL of one in object storage.
        """
        option = super().__new__(cls, text)
        option.group = group
        option.at_least = at_least
        option.at_most = at_most
        option.takes_rest = takes_rest
        option.is_address = is_address
        option.takes_url = takes_url
        option.aliases = aliases

        return option


def options_of(config: type[Any]) -> dict[str, tuple[Any, Option, Any]]:
    """Return (type, option, default) of each field of a config dataclass by name, in order."""
    hints = get_type_hints(config, include_extras=True)
    options = {}
    for field in dataclasses.fields(config):
        kind, option = get_args(hints[field.name])[:2]
        options[field.name] = (kind, option, field.default)
    return options


def flag(name: str) -> str:
    """Return a field's name as it is written on a command line: batch_size becomes --batch-size."""
    return "--" + name.replace("_", "-")


_GIVEN = "_given"  # attribute of a config that a command line has made


def mark_given(config: Any, names: Iterable[str]) -> None:
    """Note which options of a config were given, for `given_options`."""
    object.__setattr__(config, _GIVEN, frozenset(names))


def given_options(config: Any) -> frozenset[str]:
    """Return the names of the options that were given: those on the command line, even where they are the default.

    Of a config that no command line has made, these are the options that differ
    from their default.
    """
    marked = getattr(config, _GIVEN, None)
    if marked is not None:
        return frozenset(marked)
    options = options_of(type(config))
    return frozenset(
        name for name, (_, _, default) in options.items() if getattr(config, name) != default
    )


def check(config: Any) -> None:
    """Check every value of a config; a file:// URL becomes the path that it means.

    Raises:
        ValueError: a value is not one of the choices, is out of bounds, or is a URL
            where only local files are read.
    """
    for name, (kind, option, _) in options_of(type(config)).items():
        value = getattr(config, name)
        if option.takes_url:
            value = local_path(value)
            object.__setattr__(config, name, value)

        choices = get_args(kind)
        if choices and value not in choices:
            names = ", ".join(map(str, choices))
            raise ValueError(f"{flag(name)} is {value!r}, but must be one of: {names}.")

        if kind is str and not option.is_address:
            for url in filter(is_url, value.splitlines()):
                _check_url(name, option, url)

        is_number = isinstance(value, int | float)
        if is_number and not option.at_least <= value <= option.at_most:
            raise ValueError(f"{flag(name)} is {value}, but must be {_describe_bounds(option)}.")


def _check_url(name: str, option: Option, url: str) -> None:
    if option.takes_url:
        check_url(flag(name), url)
        return
    raise ValueError(
        f"{flag(name)} is {url!r}, but only local files are read and written: mount what the URL names as a folder, "
        f"or copy it."
    )


def _describe_bounds(option: Option) -> str:
    if option.at_most == math.inf:
        return f"{option.at_least:g} or more"
    return f"between {option.at_least:g} and {option.at_most:g}"
