"""Make file names of the names that datasets and users give."""

from __future__ import annotations

import hashlib
import re

_MAX_BYTES = 150  # of the 255 that file systems allow, which leaves room for what is appended
_UNSAFE = re.compile(r"[/\\\x00-\x1f\x7f\ud800-\udfff]|^[.\s]+|[.\s]+$")


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
