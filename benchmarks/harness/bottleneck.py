"""The ladder of one loader, from reading bytes to training on them; the smallest rung names the limit.

read → decode → augment → copy → step with a cached batch → full. Each rung but the last is measured alone, with all
threads. "x possible" is the headspace (as SPDL calls it): how much faster training would be if its batches cost
nothing, the cached step against the full one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_DECODES = {"ffcv": "ceiling-decode-beton", "dali": "ceiling-decode", "torch": "ceiling-decode"}


@dataclass(frozen=True)
class Ladder:
    """Images a second of each rung that was measured, in order.

    Attributes:
        loader: an engine of this package.
        rungs: name -> images a second; "loader" is the whole loader, without a step.
        limit: the smallest rung but "full" and "loader".
        possible: headspace of the full rung.
    """

    loader: str
    rungs: dict[str, float]
    limit: str
    possible: float

    def __str__(self) -> str:
        rungs = "  ".join(f"{name} {rate:,.0f}" for name, rate in self.rungs.items())
        return f"{self.loader}: {rungs}: limited by {self.limit}; {self.possible:.2f}x possible"


def names(loaders: Sequence[str]) -> list[str]:
    """The contestants that the ladders of these loaders need."""
    of_each = [f"rung-{kind}-{loader}" for loader in loaders for kind in ("read", "full")]
    return ["rung-step", *(["rung-augment"] if "resident" in loaders else []), *of_each] if loaders else []


def ladder(loader: str, rates: Mapping[str, float]) -> Ladder | None:
    """Put together from the rates of the contestants; None where training was not measured."""
    parts = {
        "read": f"rung-read-{loader}",
        "decode": _DECODES.get(loader, ""),
        "augment": "rung-augment" if loader == "resident" else "",
        "copy": "ceiling-copy",
        "loader": loader,
        "step": "rung-step",
        "full": f"rung-full-{loader}",
    }
    rungs = {rung: rates[name] for rung, name in parts.items() if name in rates}
    if "step" not in rungs or "full" not in rungs:
        return None
    alone = {rung: rate for rung, rate in rungs.items() if rung not in ("full", "loader")}
    return Ladder(loader, rungs, min(alone, key=alone.__getitem__), rungs["step"] / rungs["full"])
