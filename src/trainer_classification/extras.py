"""Import what belongs to an extra of this package, which an installation may lack."""

from __future__ import annotations

import importlib
from typing import Any


def import_from_extra(name: str, extra: str) -> Any:
    """Import a module of an extra.

    Args:
        name: of the module.
        extra: that it belongs to.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"The package {error.name} is not installed: install this package's extra `{extra}`."
        ) from None
