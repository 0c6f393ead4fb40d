"""Read options from a TOML or JSON file: `--config FILE`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer_classification.files import parse_json
from trainer_classification.options import Option, flag

Options = dict[str, tuple[Any, Option, Any]]
FLAG = "--config"


def take_file(tokens: Sequence[str]) -> tuple[list[str], Path | None]:
    """Return a command line without `--config FILE`, and the file; None if it is not there.

    Raises:
        ValueError: no file follows, or there are several.
    """
    rest: list[str] = []
    files: list[str] = []
    remaining = iter(tokens)
    for token in remaining:
        name, assigned, value = token.partition("=")
        if name == FLAG:
            files.append(value if assigned else next(remaining, ""))
        else:
            rest.append(token)

    if len(files) > 1:
        raise ValueError(f"{FLAG} is given more than once.")
    if files and not files[0]:
        raise ValueError(f"{FLAG} needs a TOML or JSON file of options.")
    return rest, Path(files[0]) if files else None


def read_tokens(path: Path, options: Options) -> dict[str, str]:
    """Read a file of options.

    Args:
        path: of a TOML or JSON file: one table of options by name, such as
            batch_size = 64.
        options: of the command, as `options.options_of` returns them.

    Returns:
        What to add to the command line for each field, such as {"batch_size":
        "--batch-size=64"}.

    Raises:
        ValueError: the file cannot be read, or names something that is no option.
    """
    fields = {name: name for name in options}
    fields |= {alias: name for name, (_, option, _) in options.items() for alias in option.aliases}
    tokens: dict[str, str] = {}
    for key, value in _read(path).items():
        name = fields.get(key.lstrip("-").replace("-", "_"))
        if name is None:
            raise ValueError(
                f"{path} has {key!r}, which is no option of this command; --help lists those there are."
            )
        if name in tokens:
            raise ValueError(f"{path} has {flag(name)} twice.")
        tokens[name] = _to_token(path, name, value)

    return tokens


def merge(from_file: dict[str, str], tokens: Sequence[str], options: Options) -> list[str]:
    """Return the command line with those options of a file that it does not have itself."""
    typed = {
        token.partition("=")[0].lstrip("-").replace("-", "_")
        for token in tokens
        if token.startswith("--")
    }

    def is_typed(name: str) -> bool:
        return bool(typed & {name, f"no_{name}", *options[name][1].aliases})

    return [*(token for name, token in from_file.items() if not is_typed(name)), *tokens]


def _read(path: Path) -> dict[str, Any]:
    import tomllib  # slow to import, for every command line

    try:
        text = path.read_text(encoding="utf-8-sig")
        content = parse_json(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except FileNotFoundError:
        raise ValueError(f"There is no file {path} ({FLAG}).") from None
    except (ValueError, RecursionError) as error:  # of either format, or the encoding
        kind = "JSON" if path.suffix.lower() == ".json" else "TOML"
        raise ValueError(f"{path} is no {kind}: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, but must hold one table of options by name."
        )
    return content


def _to_token(path: Path, name: str, value: Any) -> str:
    if isinstance(value, bool):
        return flag(name) if value else flag(f"no_{name}")
    if isinstance(value, int | float | str):
        return f"{flag(name)}={value}"
    raise ValueError(f"{path}: {name} is {value!r}, but must be a text, a number, true or false.")
