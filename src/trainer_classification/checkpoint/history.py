"""Keep the metrics of all epochs, and their JSON text, which each checkpoint has."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any


class History(list[dict[str, Any]]):
    """One row of metrics for each epoch. Rows are appended, and never changed.

    Each is encoded once, so that saving the thousandth epoch takes as long as the
    first.
    """

    def __init__(self, rows: Iterable[dict[str, Any]] = ()) -> None:
        super().__init__(rows)
        self._texts: list[str] = []

    def to_text(self) -> str:
        """Return the rows as JSON text."""
        self._texts += [json.dumps(row) for row in self[len(self._texts) :]]
        return f"[{', '.join(self._texts)}]"
