"""Choose between fp32 and bf16 on a CPU by a measurement, which is kept for this machine."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from trainer_classification.console import log
from trainer_classification.device import cpu_model, has_bf16_cpu
from trainer_classification.files import write_atomically

_FASTER = 1.1  # by which bf16 must be faster to be taken: less is within the noise
_ROUNDS = 3  # of each precision, in turns, after a first one that allocates

Run = Callable[[torch.dtype | None], object]
Choice = tuple[torch.dtype | None, str]


def choose_for_inference(
    device: torch.device,
    amp: str,
    network: Callable[[Tensor], object],
    shape: tuple[int, int, int, int],
    name: str,
    threads: int,
) -> torch.dtype | None:
    """Return the dtype of autocast for a network that only predicts; None: none, everything in fp32.

    A GPU computes in fp32. On a CPU bf16 is said in a line, with its ratio.

    Args:
        device: that predicts.
        amp: "auto" or "off", as `--amp`.
        network: takes float images, and is in evaluation mode.
        shape: B, C, H and W of the images.
        name: of the network, as of `choose_faster`.
        threads: of torch while it runs.
    """
    if device.type != "cpu" or amp == "off" or not has_bf16_cpu():
        return None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        dtype, reason = choose_faster(f"{name}, forward, {shape}", forward_pass(network, shape))
    finally:
        torch.set_num_threads(before)
    if dtype is not None:
        log(f"Precision: {reason}.")
    return dtype


def forward_pass(network: Callable[[Tensor], object], shape: tuple[int, int, int, int]) -> Run:
    """Return a forward pass in a precision, for `choose_faster`; arguments as of `choose_for_inference`."""
    images = torch.zeros(shape).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run(dtype: torch.dtype | None) -> None:
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            network(images)

    return run


def choose_faster(network: str, run: Run) -> Choice:
    """Return bf16 where a call is faster in it than in fp32, else None; and the reason, with the ratio.

    Args:
        network: what is run, as a name for the measurement, which is kept.
        run: takes the dtype of autocast; None: none.
    """
    ratio = _measured_ratio(network, run)
    if ratio > _FASTER:
        return torch.bfloat16, f"bf16: {ratio:.2f} times as fast as fp32 on this CPU"
    return None, f"fp32: bf16 is {ratio:.2f} times as fast on this CPU"


def name_precision(dtype: torch.dtype | None) -> str:
    """Return the name of a precision: float32, bfloat16 or float16."""
    return str(dtype or torch.float32).removeprefix("torch.")


def dtype_of_precision(name: str) -> torch.dtype | None:
    """Return the dtype of autocast for the name of a CPU's precision, float32 or bfloat16; None: none."""
    return torch.bfloat16 if name == "bfloat16" else None


def _measured_ratio(network: str, run: Run) -> float:
    """Return how many times as fast bf16 is as fp32, as measured now or before on this machine."""
    key = f"{cpu_model()}; torch {torch.__version__}; {torch.get_num_threads()} threads; {network}"
    path = _file()
    known: dict[str, float] = {}
    with suppress(OSError, ValueError, TypeError):
        known = dict(json.loads(path.read_text(encoding="utf-8")))
    ratio = known.get(key)
    if isinstance(ratio, float):
        return ratio

    known[key] = ratio = _measure_ratio(run)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(known, indent=1))
    return ratio


def _file() -> Path:
    """Return the file of the ratios that were measured on this machine."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "trainer-classification" / "cpu-precision.json"


def _measure_ratio(run: Run) -> float:
    """Time a call in both precisions in turns, and return the ratio of the shortest times."""
    precisions = (None, torch.bfloat16)
    seconds: dict[torch.dtype | None, list[float]] = {dtype: [] for dtype in precisions}
    for _ in range(1 + _ROUNDS):
        for dtype in precisions:
            started = time.perf_counter()
            run(dtype)
            seconds[dtype].append(time.perf_counter() - started)

    return min(seconds[None][1:]) / min(seconds[torch.bfloat16][1:])
