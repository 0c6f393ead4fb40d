"""torch.compile, asked for by name, with a sentence where it cannot work."""

from __future__ import annotations

import shutil
from typing import Any, Literal, cast

import torch
from torch import nn

_SIZES = 64  # of images and parts of batches get kernels of their own; torch's own limit is 8, and then it goes slowly


Mode = Literal["off", "default", "reduce-overhead", "graph"]
BY_COMPILER = ("default", "reduce-overhead")  # torch.compile's own


def mode_of(asked: Literal["auto"] | Mode, device: torch.device, processes: int, mixes: bool) -> Mode:
    """What `--compile` means here; auto: graph where that can be.

    Raises:
        ValueError: a graph is asked for where there can be none.
    """
    against = [
        "trains on a CPU" if device.type != "cuda" else "",
        f"has {processes} processes" if processes > 1 else "",
        "draws mixup or cutmix on the host for each step" if mixes else "",
    ]
    reasons = " and ".join(filter(None, against))
    if asked == "graph" and reasons:
        raise ValueError(f"--compile graph cannot be, as this run {reasons}: leave --compile out.")
    if asked == "auto":
        return "off" if reasons else "graph"
    return asked


def compiled(model: nn.Module, mode: Mode) -> nn.Module:
    """The model as training calls it: with the modes of torch.compile compiled in its first step, sharing all weights.

    The model itself stays as it is: it is evaluated, averaged and saved uncompiled, which spares a second compilation
    for evaluation and a third for its last, smaller batch. Each image size gets kernels of its own.

    Raises:
        ValueError: there is no C compiler.
    """
    if mode not in BY_COMPILER:
        return model
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        raise ValueError(f"--compile {mode} needs a C compiler: apt-get install g++, or use --compile off.")
    cast(Any, torch)._dynamo.config.recompile_limit = _SIZES
    return cast(nn.Module, cast(Any, torch).compile(model, mode=mode, dynamic=False))
