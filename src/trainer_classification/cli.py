"""Command lines from the config dataclasses: parse, call, exit code."""

from __future__ import annotations

import errno
import inspect
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar, get_args

from cyclopts import App, CycloptsError, Group, Parameter

from trainer_classification.config import Option, options_of

Config = TypeVar("Config")

USER_ERROR, INTERRUPTED = 2, 130
_NAMES, _WIDTH = 25, 120  # columns of the names of options in --help, and of all of it


def run(config_class: type[Config], function: Callable[[Config], int | None], argv: Sequence[str] | None = None) -> int:
    """Call `function` with the config that the command line asks for.

    Errors a user can mend (ValueError, OSError) end in one line on stderr; others are ours and keep their traceback.

    Args:
        config_class: a dataclass of `config.py`.
        function: returns its exit code, or None for 0.
        argv: arguments; those of the process if None.

    Returns:
        0, the function's own code, 2 for an error of the user's, or 130 when interrupted.
    """
    tokens = without_unset(sys.argv[1:] if argv is None else argv)
    try:
        return int(_app(config_class, function)(tokens, exit_on_error=False, print_error=True) or 0)
    except CycloptsError:
        return USER_ERROR  # printed already
    except KeyboardInterrupt:
        print("Interrupted. Nothing is lost: the same command goes on from here.", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError) as error:
        print(f"Error: {_sentence(error)}", file=sys.stderr)
        return USER_ERROR


def without_unset(tokens: Sequence[str]) -> list[str]:
    """The command line without options that a web form left empty: `--epochs None`, `--epochs=null`."""
    unset, kept = ("None", "null"), list[str]()
    for token in tokens:
        if token in unset and kept and kept[-1].startswith("--"):
            kept.pop()
        elif not (token.startswith("--") and token.partition("=")[2] in unset):
            kept.append(token)
    return kept


def _app(config_class: type[Config], function: Callable[[Config], int | None]) -> App:
    options = options_of(config_class)
    names = dict.fromkeys(option.group for _, option, _ in options.values())
    groups = {name: Group(name, sort_key=place) for place, name in enumerate(names)}

    def command(**values: Any) -> int | None:
        return function(config_class(**values))

    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[kind, Parameter(help=str(option), group=groups[option.group])],
        )
        for name, (kind, option, default) in options.items()
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = App(
        name=f"python {sys.argv[0]}",
        help=config_class.__doc__,
        help_format="plaintext",
        help_formatter=_compact(options),
        version_flags=[],
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    app.default(command)
    return app


def _compact(options: dict[str, tuple[Any, Option, Any]]) -> Any:
    """What shows a group of options in --help: a line or two for each, in columns."""

    def show(console: Any, _: Any, panel: Any) -> None:
        console.print(f"{panel.title}:", highlight=False, markup=False)
        for entry in panel.entries:
            name = entry.positive_names[0]
            kind, text, default = options.get(name[2:].replace("-", "_"), (None, "Show this.", ""))
            wrapped = textwrap.wrap(_described(kind, text, default), min(console.width, _WIDTH) - _NAMES)
            lines = [f"  {name:{_NAMES - 2}}{wrapped[0]}", *(" " * _NAMES + line for line in wrapped[1:])]
            console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)

    return show


def _described(kind: Any, text: str, default: Any) -> str:
    """Help, choices and default of an option; what counts as unset is explained by its help."""
    choices = f" {{{', '.join(map(str, get_args(kind)))}}}" if get_args(kind) else ""
    return text + choices + ("" if default in ("", 0, -1, "auto") else f" [{default}]")


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"The disk is full ({error.filename or 'while writing'}). Free some space, or choose another folder."
    return " ".join(str(error).split())
