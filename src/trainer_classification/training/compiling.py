"""torch.compile, asked for by name, with a sentence where it cannot work."""

from __future__ import annotations

import shutil
from typing import Any, Literal, cast

import torch
from torch import nn

_SIZES = 64  # of images and parts of batches get kernels of their own; torch's own limit is 8, and then it goes slowly


def compiled(model: nn.Module, mode: Literal["off", "default", "reduce-overhead"]) -> nn.Module:
    """The model as training calls it: with `mode` other than "off" compiled in its first step, sharing all weights.

    The model itself stays as it is: it is evaluated, averaged and saved uncompiled, which spares a second compilation
    for evaluation and a third for its last, smaller batch. Each image size gets kernels of its own.

    Raises:
        ValueError: there is no C compiler.
    """
    if mode == "off":
        return model
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        raise ValueError(f"--compile {mode} needs a C compiler: apt-get install g++, or use --compile off.")
    cast(Any, torch)._dynamo.config.recompile_limit = _SIZES
    return cast(nn.Module, cast(Any, torch).compile(model, mode=mode, dynamic=False))
