"""Command lines from the config dataclasses: parse, call, exit code."""

from __future__ import annotations

import ast
import errno
import inspect
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated, Any, NoReturn, TypeVar, get_args

from cyclopts import App, CycloptsError, Group, Parameter

from trainer_classification.environment import launched
from trainer_classification.options import Option, options_of

Config = TypeVar("Config")

USER_ERROR, INTERRUPTED, TERMINATED = 2, 130, 128 + signal.SIGTERM
_DASH = "\0"  # stands for the argument -, which cyclopts takes for an option; no command line can hold it
_NAMES, _WIDTH = 25, 120  # columns of the names of options in --help, and of all of it


def run(config_class: type[Config], function: Callable[[Config], int | None], argv: Sequence[str] | None = None) -> int:
    """Call `function` with the config that the command line asks for.

    Errors a user can mend (ValueError, OSError) end in one line on stderr; others are ours and keep their traceback.

    Args:
        config_class: a dataclass of `config.py`.
        function: returns its exit code, or None for 0.
        argv: arguments; those of the process if None.

    Returns:
        0, the function's own code, 2 for an error of the user's, 130 when interrupted, or 143 at SIGTERM.
    """
    tokens = without_unset(unquoted(sys.argv[1:] if argv is None else argv))
    tokens = [_DASH if token == "-" else token for token in tokens]
    try:
        with _sigterm():
            return int(_app(config_class, function)(tokens, exit_on_error=False, print_error=True) or 0)
    except CycloptsError:
        return USER_ERROR  # printed already
    except KeyboardInterrupt:
        print("Interrupted. Nothing is lost: the same command goes on from here.", file=sys.stderr)
        return INTERRUPTED
    except _Terminated:
        print("Terminated. Nothing is lost: the same command goes on from here.", file=sys.stderr)
        return TERMINATED
    except (ValueError, OSError) as error:
        print(f"Error: {_sentence(error)}", file=sys.stderr)
        return USER_ERROR


def leave(code: int) -> NoReturn:
    """End the process, with everything closed and written before; one of several without tearing Python down.

    Gloo's threads may hold a tensor of the last step a little longer. Letting go of it they want the interpreter, and
    where that is going down, the process ends by SIGABRT after all its work is done (pytorch/pytorch#179291).
    """
    if launched():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


class _Terminated(BaseException):
    """SIGTERM came while nothing waited for it."""


@contextmanager
def _sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, wherever the function has no handler of its own.

    A container's command is process 1, and to that the kernel delivers no signal without a handler: without this, a
    run that is stopped before its first step would go on until it is killed.
    """

    def terminate(*_: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def unquoted(tokens: Sequence[str]) -> list[str]:
    """The command line with the values in quotes joined: `'two`, `words'` is `two words`.

    The SDK's form builder puts strings in quotes, and `hafnia runc launch-local` cuts the command at blanks without a
    shell that would read them.
    """
    joined, rest = list[str](), list(tokens)
    while rest:
        value, count = _first(rest)
        joined.append(value)
        del rest[:count]
    return joined


def _first(tokens: list[str]) -> tuple[str, int]:
    """The first value, and how many tokens it was cut into."""
    quote = tokens[0][:1]
    for count in range(1, len(tokens) + 1) if quote in ("'", '"') else ():
        text = " ".join(tokens[:count])
        if len(text) > 1 and text.endswith(quote):
            with suppress(SyntaxError):
                return str(ast.literal_eval(text)), count
    return tokens[0], 1


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

    rest = [name for name, (_, option, _) in options.items() if option.takes_rest]

    def command(*arguments: tuple[str, ...], **values: Any) -> int | None:
        lines = {name: "\n".join(given).replace(_DASH, "-") for name, given in zip(rest, arguments, strict=False)}
        return function(config_class(**lines, **values))

    parameters = [
        _parameter(name, *options[name], groups) for name in sorted(options, key=lambda name: name not in rest)
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


def _parameter(name: str, kind: Any, option: Option, default: Any, groups: dict[str, Group]) -> inspect.Parameter:
    """Return what cyclopts makes an option of; one that takes the rest is a tuple, by position or by name."""
    about = Parameter(help=str(option), group=groups[option.group])
    if option.takes_rest:
        position = inspect.Parameter.POSITIONAL_OR_KEYWORD
        return inspect.Parameter(name, position, default=(), annotation=Annotated[tuple[str, ...], about])
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, about])


def _compact(options: dict[str, tuple[Any, Option, Any]]) -> Any:
    """What shows a group of options in --help: a line or two for each, in columns."""

    def show(console: Any, _: Any, panel: Any) -> None:
        console.print(f"{panel.title}:", highlight=False, markup=False)
        for entry in panel.entries:
            name = entry.positive_names[0]
            kind, text, default = options.get(name[2:].replace("-", "_"), (None, Option("Show this."), ""))
            name = f"{name[2:].upper()} ..." if text.takes_rest else name
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
