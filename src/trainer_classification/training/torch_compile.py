"""Choose how steps run (CUDA graph, torch.compile or neither), and compile the model."""

from __future__ import annotations

import shutil
from typing import Any, Literal, cast

import torch
from torch import nn

# Each image size and each size of a partial batch gets its own kernels. Torch
# stops compiling at 8 by default.
_MAX_SIZES = 64

StepMode = Literal["off", "default", "reduce-overhead", "graph"]
TORCH_COMPILE_MODES = ("default", "reduce-overhead")


def choose_step_mode(
    requested: Literal["auto"] | StepMode, device: torch.device, processes: int, mixes: bool
) -> StepMode:
    """Choose how steps run; auto means a CUDA graph where one is possible.

    Args:
        requested: as `--compile`.
        device: that trains.
        processes: that train together.
        mixes: True if mixup or cutmix is used.

    Raises:
        ValueError: a graph was requested where none is possible.
    """
    obstacles = []
    if device.type != "cuda":
        obstacles.append("trains on a CPU")
    if processes > 1:
        obstacles.append(f"has {processes} processes")
    if mixes:
        obstacles.append("draws mixup or cutmix on the host for each step")

    if requested == "graph" and obstacles:
        raise ValueError(
            f"--compile graph is not possible, because this run {' and '.join(obstacles)}: omit --compile."
        )
    if requested == "auto":
        return "off" if obstacles else "graph"
    return requested


def compile_model(model: nn.Module, mode: StepMode) -> nn.Module:
    """Return the model as training calls it; with a mode of torch.compile, the first step compiles it.

    The returned module shares all weights. The model itself stays uncompiled for
    evaluation, averaging and saving, which saves a compilation for evaluation and
    another for its last, smaller batch.

    Raises:
        ValueError: there is no C compiler.
    """
    if mode not in TORCH_COMPILE_MODES:
        return model
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        raise ValueError(
            f"--compile {mode} needs a C compiler: apt-get install g++, or use --compile off."
        )
    cast(Any, torch)._dynamo.config.recompile_limit = _MAX_SIZES

    return cast(nn.Module, cast(Any, torch).compile(model, mode=mode, dynamic=False))
