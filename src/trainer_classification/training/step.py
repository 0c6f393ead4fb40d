"""One training step: uint8 in, weights moved, nothing read back from the device."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer_classification.loaders.base import Batch
from trainer_classification.training.ema import Average


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


class Normalise:
    """uint8 [B, H, W, C] to normalised float [B, C, H, W] in channels-last, which the permuted batch already is.

    Args:
        mean, std: per channel, of 0..1.
        device: of the batches.
    """

    def __init__(self, mean: list[float], std: list[float], device: torch.device) -> None:
        # A channel that never changes has std 0.
        scale = [1 / (255 * max(value, 1e-3)) for value in std]
        self.scale = torch.tensor(scale, device=device)[:, None, None]
        self.offset = -torch.tensor(mean, device=device)[:, None, None] * 255 * self.scale

    def __call__(self, images: Tensor) -> Tensor:
        """The images as a network wants them."""
        return images.permute(0, 3, 1, 2).to(self.scale.dtype).mul_(self.scale).add_(self.offset)


class Totals:
    """Sums since the last reset, on the device: loss, right answers, images; and steps in a row not finite."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)
        self.not_finite = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Count a step; waits for nothing."""
        right = (logits.argmax(1) == labels).sum()
        size = torch.full_like(right, len(labels))
        self.sums += torch.stack([loss.double() * len(labels), right.double(), size.double()])
        self.not_finite = torch.where(torch.isfinite(loss), 0, self.not_finite + 1)

    def read(self) -> tuple[float, float, int, int]:
        """(mean loss, accuracy, images, steps in a row that were not finite): waits for the device."""
        loss, right, count = self.sums.tolist()
        return loss / max(count, 1), right / max(count, 1), int(count), int(self.not_finite)

    def reset(self) -> None:
        """Start anew, but for the steps in a row."""
        self.sums.zero_()


class Step:
    """Forward, backward, optimizer, average.

    Args:
        model: in training mode, on its device, channels-last.
        optimizer: over its parameters.
        normalise: for the batches.
        label_smoothing: of the loss.
        dtype: of autocast; None: none.
        average: follows the model; None: none.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        normalise: Normalise,
        label_smoothing: float,
        dtype: torch.dtype | None,
        average: Average | None,
    ) -> None:
        self.model, self.optimizer, self.normalise = model, optimizer, normalise
        self.label_smoothing, self.dtype, self.average = label_smoothing, dtype, average
        amp: Any = torch.amp  # its types do not export GradScaler
        self.scaler = amp.GradScaler("cuda", enabled=dtype is torch.float16)

    def __call__(self, batch: Batch, step: int, totals: Totals) -> Tensor:
        """Train on a batch; returns its mean loss, on the device."""
        with torch.autocast(batch.images.device.type, self.dtype, enabled=self.dtype is not None):
            logits = self.model(self.normalise(batch.images))
            loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(step)
        loss = loss.detach()
        totals.add(loss, logits.detach(), batch.labels)
        return loss
