"""Choose the device and the precision of a training, each with its reason."""

from __future__ import annotations

import torch


def choose_device(device: str) -> tuple[torch.device, str]:
    """The device to train on, and why.

    Raises:
        ValueError: CUDA is asked for and not there, or this torch has no kernels for the GPU.
    """
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu"), "--device cpu" if device == "cpu" else "there is no GPU that torch can use"
    if not torch.cuda.is_available():
        raise ValueError(
            "--device cuda, but torch finds no GPU: check the driver with nvidia-smi, or use --device cpu."
        )
    major, minor = torch.cuda.get_device_capability()
    compiled = [int(arch[3:]) for arch in torch.cuda.get_arch_list() if arch.startswith("sm_")]
    if compiled and 10 * major + minor < min(compiled):
        raise ValueError(
            f"This torch {torch.__version__} has no kernels for {torch.cuda.get_device_name()} (sm_{major}{minor}): "
            f"install torch 2.10, whose wheel has sm_70 (V100) and sm_75 (T4)."
        )
    return torch.device("cuda"), torch.cuda.get_device_name()


def precision(device: torch.device, amp: str) -> tuple[torch.dtype | None, str]:
    """The type of autocast (None: none, all in fp32), and why.

    T4 (sm_75) and V100 (sm_70) have no bf16 tensor cores; from sm_80 bf16 needs no loss scaling.
    """
    if device.type != "cuda" or amp == "off":
        return None, "fp32: " + ("--amp off" if amp == "off" else "mixed precision does not help on a CPU")
    major, minor = torch.cuda.get_device_capability(device)
    if amp == "fp16" or (amp == "auto" and major < 8):
        return torch.float16, f"fp16 with loss scaling: sm_{major}{minor}" if amp == "auto" else "fp16: --amp fp16"
    return torch.bfloat16, f"bf16: sm_{major}{minor}" if amp == "auto" else "bf16: --amp bf16"
