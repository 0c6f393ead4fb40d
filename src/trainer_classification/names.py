"""Print names that datasets and users give, and make file names of them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import PurePath

_MAX_BYTES = 150  # of the 255 that file systems allow, which leaves room for what is appended
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_MARKUP = re.compile(r"[\\`*_{}\[\]()#+!|~$&]")
_UNSAFE = re.compile(r"[/\\\x00-\x1f\x7f\ud800-\udfff]|^[.\s]+|[.\s]+$")


def printable(text: str) -> str:
    """Return text that any UTF-8 stream takes: bytes of a file name that are not UTF-8 are written as escapes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def one_line(text: str, length: int = 80) -> str:
    """Return a name as one line of limited length: control characters as escapes, and long names cut in the middle.

    Args:
        text: the name.
        length: of the longest name that is not cut.
    """
    shown = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    if len(shown) <= length:
        return shown
    half = (length - 1) // 2
    return f"{shown[: length - 1 - half]}…{shown[len(shown) - half :]}"


def escape_markdown(text: str) -> str:
    """Return a name as Markdown shows it letter by letter: without links, code or HTML of its own."""
    return _MARKUP.sub(r"\\\g<0>", one_line(text)).replace("<", "&lt;").replace(">", "&gt;")


def list_names(names: Iterable[str], limit: int = 10) -> str:
    """Return the first names with commas, and how many more there are; "none" where there are none.

    Args:
        names: of anything; each is made printable.
        limit: names that are listed.
    """
    listed = [one_line(name) for name in names]
    more = f" and {len(listed) - limit:,} more" if len(listed) > limit else ""
    return (", ".join(listed[:limit]) + more) if listed else "none"


def portable_path(path: str | PurePath) -> str:
    """Return a path as an output names it: relative to the working folder, or else its last part.

    The other parts of a path that leads out of the working folder name users and
    machines, and outputs go to others.
    """
    shown = PurePath(path)
    here = os.getcwd()
    if ".." not in shown.parts and shown.is_relative_to(here):
        return str(shown.relative_to(here))
    leads_out = shown.is_absolute() or ".." in shown.parts or str(path).startswith("~")
    return shown.name if leads_out else str(path)


def safe_component(name: str) -> str:
    """Return a single path component for any name: it never leads into another folder.

    Ordinary names stay as they are. Whatever else is changed gets a hash of the
    name, so that different names stay different.

    Args:
        name: any text, such as the name of a dataset, a task or a class.
    """
    cleaned = _UNSAFE.sub("-", name)
    is_short = len(cleaned.encode()) <= _MAX_BYTES
    if cleaned and cleaned == name and is_short:
        return name

    cut = cleaned.encode()[: _MAX_BYTES - 9].decode(errors="ignore")
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]

    return f"{cut or 'unnamed'}-{digest}"
