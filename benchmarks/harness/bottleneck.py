"""Find the bottleneck of a loader, from reading bytes to training on them: the slowest stage limits the rate.

The stages are read → decode → augment → copy → step with a cached batch →
training. Each stage but the last is measured alone, with all threads. "x
possible" is the headspace (SPDL's word): how much faster training would be if its
batches cost nothing, which is the rate of the cached step over that of the
training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_DECODE_ROWS = {"ffcv": "decode-beton", "dali": "decode-originals", "torch": "decode-originals"}
_NOT_A_LIMIT = ("loader", "training")


@dataclass(frozen=True)
class Bottleneck:
    """The stages of one loader.

    Attributes:
        loader: an engine of this package.
        stages: name -> images a second, in order. "loader" is the whole loader
            without a training step.
        limit: the slowest stage, apart from "loader" and "training".
        possible: headspace of the training.
    """

    loader: str
    stages: dict[str, float]
    limit: str
    possible: float

    def __str__(self) -> str:
        stages = "  ".join(f"{name} {rate:,.0f}" for name, rate in self.stages.items())
        return f"{self.loader}: {stages}\n  limited by {self.limit}; {self.possible:.2f}x possible"


def list_stages(loaders: Sequence[str]) -> list[str]:
    """Return the names of the stages to measure for these loaders."""
    if not loaders:
        return []
    augment = ["stage-augment"] if "resident" in loaders else []
    of_each = [f"stage-{kind}-{loader}" for loader in loaders for kind in ("read", "train")]
    return ["stage-step", *augment, *of_each]


def find_bottleneck(loader: str, rates: Mapping[str, float]) -> Bottleneck | None:
    """Return the bottleneck of a loader, or None if its training was not measured.

    Args:
        loader: name of the engine.
        rates: images a second of every candidate and stage that was measured.
    """
    rows = {
        "read": f"stage-read-{loader}",
        "decode": _DECODE_ROWS.get(loader, ""),
        "augment": "stage-augment" if loader == "resident" else "",
        "copy": "copy",
        "loader": loader,
        "step": "stage-step",
        "training": f"stage-train-{loader}",
    }
    stages = {stage: rates[row] for stage, row in rows.items() if row in rates}
    if "step" not in stages or "training" not in stages:
        return None

    limits = {stage: rate for stage, rate in stages.items() if stage not in _NOT_A_LIMIT}
    slowest = min(limits, key=limits.__getitem__)

    # Below 1 it is noise: training does the same steps, and waits for batches.
    possible = max(1.0, stages["step"] / stages["training"])
    return Bottleneck(loader, stages, slowest, possible)
