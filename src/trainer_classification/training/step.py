"""One training step: uint8 in, weights moved, nothing read back from the device."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer_classification.loaders.base import Batch
from trainer_classification.training.ema import Average
from trainer_classification.training.mixing import Mixing, Targets


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
    """Sums since the last reset, on the device: loss, right answers, images; and counts of steps that went wrong.

    Attributes:
        sums: float64 [3].
        not_finite: int64, steps in a row whose loss was not finite.
        wrong: int64 [2], steps of the whole run whose loss was not finite, and steps skipped as fp16 overflowed.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)
        self._loss, self._right, self._images = self.sums.unbind()
        self.not_finite = torch.zeros((), dtype=torch.int64, device=device)
        self.wrong = torch.zeros(2, dtype=torch.int64, device=device)

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Count a step, in place and in few operations; waits for nothing."""
        self._loss.add_(loss, alpha=len(labels))
        self._right.add_((logits.argmax(1) == labels).sum())
        self._images.add_(len(labels))
        wrong = torch.isfinite(loss).logical_not_()
        self.not_finite.add_(1).mul_(wrong)
        self.wrong[0] += wrong

    def read(self) -> tuple[float, float, int, int]:
        """(mean loss, accuracy, images, steps in a row that were not finite): waits for the device."""
        return *figures(self.sums), int(self.not_finite)

    def reset(self) -> None:
        """Start anew, but for the steps in a row and of the run."""
        self.sums.zero_()


def figures(sums: Tensor) -> tuple[float, float, int]:
    """(mean loss, accuracy, images) of `Totals.sums`: waits for the device."""
    loss, right, count = sums.tolist()
    return loss / max(count, 1), right / max(count, 1), int(count)


class Step:
    """Forward, backward, optimizer, average.

    Args:
        model: in training mode, on its device, channels-last.
        optimizer: over its parameters.
        normalise: for the batches.
        label_smoothing: of the loss.
        dtype: of autocast; None: none.
        average: follows the model; None: none.
        forward: how the model is called: compiled, or averaging gradients over ranks; None: as it is.
        mixing: of the images.
        accumulate: parts in which a batch is computed.
        clip_norm: largest norm of the gradient; 0: any.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        normalise: Normalise,
        label_smoothing: float,
        dtype: torch.dtype | None,
        average: Average | None,
        *,
        forward: nn.Module | None = None,
        mixing: Mixing | None = None,
        accumulate: int = 1,
        clip_norm: float = 0.0,
    ) -> None:
        self.model, self.optimizer, self.normalise = model, optimizer, normalise
        self.label_smoothing, self.dtype, self.average = label_smoothing, dtype, average
        self.forward = model if forward is None else forward
        self.mixing, self.accumulate, self.clip_norm = mixing or Mixing(0), accumulate, clip_norm
        self.scaler = self._new_scaler()

    def _new_scaler(self) -> Any:
        amp: Any = torch.amp  # its types do not export GradScaler
        return amp.GradScaler("cuda", enabled=self.dtype is torch.float16)

    @property
    def recorded(self) -> bool:
        """Whether steps are played back as a CUDA graph."""
        return False

    def __call__(self, batch: Batch, step: int, totals: Totals) -> Tensor:
        """Train on a batch; returns its mean loss, on the device."""
        loss = self._train(batch.images, batch.labels, step, totals)
        if self.average is not None:
            self.average.update(step)
        return loss

    def _train(self, images: Tensor, labels: Tensor, step: int, totals: Totals) -> Tensor:
        """All but the average, whose decay is another number in each step."""
        mixed, targets = self.mixing(self.normalise(images), labels, step)
        self.optimizer.zero_grad(set_to_none=True)
        loss, logits = self._backward(mixed, targets)
        self._update(totals)
        totals.add(loss, logits, labels)
        return loss

    def _backward(self, images: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """Gradients of the mean loss; returns that loss and the logits, detached."""
        parts = list(zip(images.chunk(self.accumulate), targets.chunk(self.accumulate), strict=True))
        losses, logits = [], []
        for number, (part, target) in enumerate(parts):
            # Ranks need to exchange the sum of the parts' gradients alone.
            with nullcontext() if number == len(parts) - 1 else getattr(self.forward, "no_sync", nullcontext)():
                with torch.autocast(part.device.type, self.dtype, enabled=self.dtype is not None):
                    answer = self.forward(part)
                    loss = target.loss(answer, self.label_smoothing) * (len(part) / len(images))
                self.scaler.scale(loss).backward()
            losses.append(loss.detach())
            logits.append(answer.detach())
        return (torch.stack(losses).sum(), torch.cat(logits)) if len(parts) > 1 else (losses[0], logits[0])

    def _update(self, totals: Totals) -> None:
        """Move the weights; counts an overflow by the fall of the scale, without waiting for the device."""
        if self.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm, foreach=True)
        if not self.scaler.is_enabled():
            self.optimizer.step()
            return
        one = torch.ones((), device=totals.wrong.device)
        before = self.scaler.scale(one)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        totals.wrong[1] += self.scaler.scale(one) < before
