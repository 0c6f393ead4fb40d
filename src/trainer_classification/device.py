"""Choose the device and the precision of a training, each with the reason; run a network in several threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_CPU_INFO = Path("/proc/cpuinfo")
_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}


def choose_device(device: str) -> tuple[torch.device, str]:
    """Choose the device to train on.

    Args:
        device: "auto", "cpu" or "cuda", as `--device`.

    Returns:
        The device, and the reason.

    Raises:
        ValueError: CUDA was requested and torch finds no GPU, or this torch has
            no kernels for the GPU.
    """
    if device == "cpu":
        return torch.device("cpu"), "--device cpu"
    if not torch.cuda.is_available():
        if device == "auto":
            return torch.device("cpu"), "torch finds no GPU"
        raise ValueError(
            "--device is cuda, but torch finds no GPU: check the driver with nvidia-smi, or use --device cpu."
        )

    major, minor = torch.cuda.get_device_capability()
    supported = [int(name[3:]) for name in torch.cuda.get_arch_list() if name.startswith("sm_")]
    if supported and 10 * major + minor < min(supported):
        raise ValueError(
            f"This torch {torch.__version__} has no kernels for {torch.cuda.get_device_name()} (sm_{major}{minor}): "
            f"install torch 2.10, whose wheel supports sm_70 (V100) and sm_75 (T4)."
        )
    return torch.device("cuda"), torch.cuda.get_device_name()


def choose_precision(device: torch.device, amp: str) -> tuple[torch.dtype | None, str]:
    """Choose the dtype of autocast.

    On a CPU, "auto" is fp32 until a measurement says otherwise, see
    `training.cpu_precision`.

    T4 (sm_75) and V100 (sm_70) have no bf16 tensor cores; from sm_80 on, bf16
    needs no loss scaling.

    Args:
        device: that trains.
        amp: "auto", "fp16", "bf16" or "off", as `--amp`.

    Returns:
        The dtype (None: no autocast, everything in fp32), and the reason.
    """
    if amp == "off":
        return None, "fp32: --amp off"
    if device.type != "cuda":
        return _choose_cpu_precision(amp)

    major, minor = torch.cuda.get_device_capability(device)
    if amp == "fp16":
        return torch.float16, "fp16: --amp fp16"
    if amp == "bf16":
        return torch.bfloat16, "bf16: --amp bf16"
    if major < 8:
        return torch.float16, f"fp16 with loss scaling: sm_{major}{minor}"
    return torch.bfloat16, f"bf16: sm_{major}{minor}"


def _choose_cpu_precision(amp: str) -> tuple[torch.dtype | None, str]:
    if amp == "bf16":
        return torch.bfloat16, "bf16: --amp bf16"
    if amp == "fp16":
        return None, "fp32: --amp fp16 is for GPUs"
    if has_bf16_cpu():
        return None, "fp32, unless bf16 is faster"
    return None, "fp32: this CPU has no instructions for bf16"


def has_bf16_cpu() -> bool:
    """Return whether the CPU has instructions for bf16: without, it is many times as slow as fp32."""
    return not _BF16_FLAGS.isdisjoint(_cpu_info("flags").split())


def cpu_model() -> str:
    """Return the name of the CPU; "unknown" where the system does not say."""
    return _cpu_info("model name") or "unknown"


def _cpu_info(name: str) -> str:
    """Return a line of the system's description of its first CPU; "" where it has none."""
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    entries = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in entries if key.strip() == name), "")


def map_in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, device: torch.device
) -> Iterator[Result]:
    """Yield a function's result for each item, in order; items are taken as they are needed.

    On a CPU each thread computes with one core, so that no core waits for another.
    Torch has its number of threads again afterwards.

    Args:
        function: called in the threads.
        items: of which up to twice as many as threads are in work.
        threads: their number.
        device: that the function computes on.
    """
    threads_before = torch.get_num_threads()

    def begin_thread() -> None:
        if device.type == "cpu":
            torch.set_num_threads(1)

    pool = ThreadPoolExecutor(threads, "map", begin_thread)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads_before)
