"""Make command lines from the config dataclasses: parse the arguments, call a function, return an exit code."""

from __future__ import annotations

import ast
import inspect
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any, NoReturn, TypeVar, get_args

from cyclopts import (
    App,
    CoercionError,
    CycloptsError,
    Group,
    MissingArgumentError,
    Parameter,
    RepeatArgumentError,
    Token,
    UnknownOptionError,
    UnusedCliTokensError,
)

from trainer_classification import option_file, option_hints
from trainer_classification.cli_help import asks_for_help, print_help
from trainer_classification.config import COMMANDS, PrepareConfig, TrainConfig
from trainer_classification.environment import name_user, wait_passively_on_shared_cpus
from trainer_classification.files import is_disk_full
from trainer_classification.options import Option, flag, mark_given, options_of
from trainer_classification.stop_signals import (
    StopRequest,
    describe_stop,
    exit_code,
    raise_on_signals,
)
from trainer_classification.streams import open_streams

Config = TypeVar("Config")

# Exit codes
USER_ERROR = 2

_KIND_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}

_UNSET_TEXTS = ("None", "null")  # values of a web form's empty fields

# For cyclopts, which would import rich to print errors, although it prints none here
_NO_CONSOLE: Any = object()

_DASH = "\0"  # stands for the argument -, which cyclopts takes for an option; no command line can hold it


def run(
    config_class: type[Config],
    function: Callable[[Config], int | None],
    argv: Sequence[str] | None = None,
) -> int:
    """Call `function` with the config that the command line describes.

    Errors that a user can fix (ValueError, OSError) become one line on stderr.
    Others are bugs of ours and keep their traceback.

    Args:
        config_class: a dataclass of `config.py`.
        function: returns its exit code, or None for 0.
        argv: arguments; None for those of the process.

    Returns:
        The function's exit code, 2 after a user's error, 130 after Ctrl-C, 143
        after SIGTERM, or 129 after SIGHUP.
    """
    tokens = sys.argv[1:] if argv is None else argv
    is_long = config_class in (TrainConfig, PrepareConfig)
    open_streams(outlive_reader=is_long or asks_for_help(tokens))
    name_user()
    wait_passively_on_shared_cpus(adapts=config_class is TrainConfig)
    tokens = drop_unset(join_quoted(tokens))
    tokens = [_DASH if token == "-" else token for token in tokens]
    options = options_of(config_class)
    left = _describe_left(config_class)
    if asks_for_help(tokens):
        print_help(config_class)
        return 0
    try:
        tokens = _add_option_file(tokens, config_class)
        with raise_on_signals(left):
            return _parse_and_call(config_class, function, tokens)
    except CycloptsError as error:
        print(f"Error: {_describe_parse_error(error, options)}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(describe_stop(signal.SIGINT, left), file=sys.stderr)
        return exit_code(signal.SIGINT)
    except StopRequest as stop:
        print(describe_stop(stop.number, left), file=sys.stderr)
        return exit_code(stop.number)
    except (ValueError, OSError) as error:
        print(f"Error: {_describe_error(error)}", file=sys.stderr)
        return USER_ERROR


def _describe_left(config_class: type[Any]) -> str:
    """Say what a stopped command leaves."""
    default = "Nothing is lost: run the same command to continue."
    return str(getattr(config_class, "when_stopped", default))


def _parse_and_call(
    config_class: type[Config], function: Callable[[Config], int | None], tokens: Sequence[str]
) -> int:
    app = _build_app(config_class, function)
    return int(app(tokens, exit_on_error=False, print_error=False) or 0)


def _add_option_file(tokens: Sequence[str], config_class: type[Any]) -> Sequence[str]:
    """Return the command line with the options of the file that `--config` names.

    Raises:
        ValueError: the file cannot be read, or an option in it is wrong.
    """
    tokens, path = option_file.take_file(tokens)
    if path is None:
        return tokens
    options = options_of(config_class)
    from_file = option_file.read_tokens(path, options)
    try:
        _parse_and_call(config_class, lambda _: 0, [*from_file.values()])
    except CycloptsError as error:
        raise ValueError(f"{path}: {_describe_parse_error(error, options)}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error

    return option_file.merge(from_file, tokens, options)


def _version() -> str:
    """Return the version of this package."""
    from importlib import metadata  # slow to import, for every command line

    try:
        return metadata.version("trainer-classification")
    except metadata.PackageNotFoundError:
        return "unknown: trainer-classification is not installed, only on Python's path"


def leave(code: int) -> NoReturn:
    """End the process at once. Everything must be closed and written before.

    Python would first take apart all that was imported, for a second or more. It
    could also fail: Gloo's threads may hold a tensor of the last step a little
    longer, and need the interpreter to release it. If it is shutting down by
    then, the process ends by SIGABRT although all its work is done
    (pytorch/pytorch#179291). A process
    that was stopped may hang as well, because it was interrupted anywhere.
    """
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):  # the reader is gone: Python has its own exit code for that
        sys.exit(code)
    os._exit(code)


def join_quoted(tokens: Sequence[str]) -> list[str]:
    """Join the tokens of quoted values: `'two`, `words'` becomes `two words`.

    The SDK's form builder quotes strings, but `hafnia runc launch-local` splits
    the command at blanks, without a shell that would read the quotes.
    """
    joined = []
    rest = list(tokens)
    while rest:
        value, count = _take_value(rest)
        joined.append(value)
        del rest[:count]

    return joined


def _take_value(tokens: list[str]) -> tuple[str, int]:
    """Return the first value, and the number of tokens it was split into."""
    quote = tokens[0][:1]
    if quote not in ("'", '"'):
        return tokens[0], 1

    for count in range(1, len(tokens) + 1):
        text = " ".join(tokens[:count])
        if len(text) > 1 and text.endswith(quote):
            with suppress(SyntaxError):
                return str(ast.literal_eval(text)), count
    return tokens[0], 1


def drop_unset(tokens: Sequence[str]) -> list[str]:
    """Drop the options that a web form left empty: `--epochs None`, `--epochs=null`."""
    kept: list[str] = []
    for token in tokens:
        is_option = token.startswith("--")
        follows_option = bool(kept) and kept[-1].startswith("--")
        if token in _UNSET_TEXTS and follows_option:
            kept.pop()
        elif not (is_option and token.partition("=")[2] in _UNSET_TEXTS):
            kept.append(token)
    return kept


def _build_app(config_class: type[Config], function: Callable[[Config], int | None]) -> App:
    """Return an app whose one command has the options of a config."""
    options = options_of(config_class)
    names = dict.fromkeys(option.group for _, option, _ in options.values())
    groups = {name: Group(name, sort_key=position) for position, name in enumerate(names)}

    rest = [name for name, (_, option, _) in options.items() if option.takes_rest]

    def command(*arguments: tuple[str, ...], **values: Any) -> int | None:
        lines = {
            name: "\n".join(given).replace(_DASH, "-")
            for name, given in zip(rest, arguments, strict=False)
        }
        config = config_class(**lines, **values)
        mark_given(config, values)
        return function(config)

    # cyclopts reads the parameters from the signature.
    parameters = [
        _parameter(name, *options[name], groups)
        for name in sorted(options, key=lambda name: name not in rest)
    ]
    group = groups.get("Run") or next(iter(groups.values()))
    file_parameter = inspect.Parameter(
        "config",  # taken from the tokens before they are parsed; here for hints
        inspect.Parameter.KEYWORD_ONLY,
        default="",
        annotation=Annotated[str, Parameter(group=group)],
    )
    parameters.append(file_parameter)
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}

    app = App(
        name=f"python {sys.argv[0]}",
        help_flags=[],
        version=_version,
        version_flags=["--version"],
        result_action="return_value",
        suppress_keyboard_interrupt=False,
        error_console=_NO_CONSOLE,
    )
    app.default(command)

    return app


def _parameter(
    name: str, kind: Any, option: Option, default: Any, groups: dict[str, Group]
) -> inspect.Parameter:
    """Return the parameter of an option; one that takes the rest is a tuple, by position or by name."""
    if option.takes_rest:
        annotation = Annotated[
            tuple[str, ...], Parameter(help=str(option), group=groups[option.group])
        ]
        return inspect.Parameter(
            name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=(), annotation=annotation
        )

    about = Parameter(
        help=str(option),
        group=groups[option.group],
        alias=[flag(alias) for alias in option.aliases],
        converter=_to_integer if kind is int else None,  # cyclopts would round 2.99
    )

    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, about]
    )


def _to_integer(_: type[int], tokens: Sequence[Token]) -> int:
    """Convert the value of an option: 3 and 3.0, but not 2.99."""
    try:
        return int(tokens[0].value)
    except ValueError:
        number = float(tokens[0].value)
        if not number.is_integer():
            raise ValueError(f"{number} is not a whole number") from None
        return int(number)


def _describe_parse_error(error: CycloptsError, options: dict[str, tuple[Any, Option, Any]]) -> str:
    """Return one sentence: what is wrong with the command line, and what to type instead."""
    if isinstance(error, UnknownOptionError):
        commands = {f"{script}.py": options_of(config) for script, config in COMMANDS.items()}
        return option_hints.explain_unknown(
            error.token.keyword or error.token.value, options, commands
        )
    if isinstance(error, UnusedCliTokensError):
        return option_hints.explain_stray((error.unused_tokens or [""])[0], options)
    if isinstance(error, MissingArgumentError) and error.argument:
        return f"{error.argument.name} needs a value."
    if isinstance(error, RepeatArgumentError):
        return f"{error.token.keyword} is given more than once."
    if isinstance(error, CoercionError) and error.argument and error.token:
        return _describe_wrong_value(error.argument.name, error.token.value, options)
    return " ".join(str(error).split())


def _describe_wrong_value(
    option_flag: str, value: str, options: dict[str, tuple[Any, Option, Any]]
) -> str:
    name = option_flag[2:].replace("-", "_")
    kind = options[name][0]
    choices = get_args(kind)
    if choices:
        return option_hints.explain_value(name, value, choices)
    return f"{option_flag} is {value!r}, but must be {_KIND_NAMES[kind]}."


def _describe_error(error: Exception) -> str:
    """Return an error's message in one line."""
    if is_disk_full(error):
        file = getattr(error, "filename", None) or "while writing"
        return f"The disk is full ({file}). Free some space, or choose another folder."
    return " ".join(str(error).split())
