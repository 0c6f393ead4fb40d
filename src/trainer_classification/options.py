"""How an option of a command is declared, listed and checked.

An option is a field of a frozen dataclass (`config.py`), annotated with an `Option`. Fields are int, float, str, bool
or Literal with a default that is not None; "", 0, -1 or "auto" mean unset. Annotations must not be deferred, because
the SDK's form builder reads them.
"""

import dataclasses
import math
from typing import Any, Self, get_args, get_type_hints


class Option(str):
    """The help text of a field, with its group in `--help` and the values it may take.

    A str, because the SDK's form builder takes the description of a field from a str in its annotation.
    """

    group: str
    at_least: float
    at_most: float
    takes_rest: bool

    def __new__(
        cls,
        help: str,
        group: str = "Run",
        at_least: float = -math.inf,
        at_most: float = math.inf,
        *,
        takes_rest: bool = False,
    ) -> Self:
        """Return the help text as an Option.

        Args:
            help: what the option means.
            group: heading in `--help`.
            at_least: smallest value of a number.
            at_most: largest value of a number.
            takes_rest: whether a str also takes the arguments without a name, and then holds one a line.
        """
        option = super().__new__(cls, help)
        option.group, option.at_least, option.at_most = group, at_least, at_most
        option.takes_rest = takes_rest
        return option


def options_of(config: type[Any]) -> dict[str, tuple[Any, Option, Any]]:
    """Name -> (type, option, default) of each field of a config dataclass, in order."""
    hints = get_type_hints(config, include_extras=True)
    return {field.name: (*get_args(hints[field.name])[:2], field.default) for field in dataclasses.fields(config)}


def check(config: Any) -> None:
    """Raise ValueError that names the option, what it got and what it may be."""
    for name, (kind, option, _) in options_of(type(config)).items():
        value, flag = getattr(config, name), "--" + name.replace("_", "-")
        if get_args(kind) and value not in get_args(kind):
            raise ValueError(f"{flag} is {value!r}, but must be one of: {', '.join(map(str, get_args(kind)))}.")
        if isinstance(value, int | float) and not option.at_least <= value <= option.at_most:
            bounds = (
                f"between {option.at_least:g} and {option.at_most:g}"
                if option.at_most < math.inf
                else (f"{option.at_least:g} or more")
            )
            raise ValueError(f"{flag} is {value}, but must be {bounds}.")
