"""Print names that datasets and users give, and make file names of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

_MAX_BYTES = 150  # of the 255 that file systems allow, which leaves room for what is appended
_UNSAFE = re.compile(r"[/\\\x00-\x1f\x7f\ud800-\udfff]|^[.\s]+|[.\s]+$")


def printable(text: str) -> str:
    """Return text that any UTF-8 stream takes: bytes of a file name that are not UTF-8 are written as escapes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def list_names(names: Iterable[str], limit: int = 10) -> str:
    """Return the first names with commas, and how many more there are; "none" where there are none.

    Args:
        names: of anything; each is made printable.
        limit: names that are listed.
    """
    listed = [printable(name) for name in names]
    more = f" and {len(listed) - limit:,} more" if len(listed) > limit else ""
    return (", ".join(listed[:limit]) + more) if listed else "none"


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
