"""One training step: uint8 in, weights moved, nothing read back from the device."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer_classification.augment.mixup import Mixing, Targets
from trainer_classification.loaders.base import Batch
from trainer_classification.models.normalize import Normalize
from trainer_classification.optim.ema import ModelEma
from trainer_classification.training.metrics import Metrics


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
        normalize: Normalize,
        label_smoothing: float,
        dtype: torch.dtype | None,
        average: ModelEma | None,
        *,
        forward: nn.Module | None = None,
        mixing: Mixing | None = None,
        accumulate: int = 1,
        clip_norm: float = 0.0,
    ) -> None:
        self.model, self.optimizer, self.normalize = model, optimizer, normalize
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

    def __call__(self, batch: Batch, step: int, totals: Metrics) -> Tensor:
        """Train on a batch; returns its mean loss, on the device."""
        loss = self._train(batch.images, batch.labels, step, totals)
        if self.average is not None:
            self.average.update(step)
        return loss

    def _train(self, images: Tensor, labels: Tensor, step: int, totals: Metrics) -> Tensor:
        """All but the average, whose decay is another number in each step."""
        mixed, targets = self.mixing(self.normalize(images), labels, step)
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

    def _update(self, totals: Metrics) -> None:
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
