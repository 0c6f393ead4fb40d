"""Take one training step: uint8 images in, weights updated, nothing read back from the device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer_classification.augment.mixup import Mixing, Targets
from trainer_classification.console import log
from trainer_classification.loaders.base import Batch
from trainer_classification.models.normalize import Normalize
from trainer_classification.optim.ema import ModelEma
from trainer_classification.training.metrics import Metrics


class Step:
    """Run forward pass, backward pass and optimizer, and update the averaged weights.

    Args:
        model: in training mode, on its device, channels-last.
        optimizer: over the model's parameters.
        normalize: turns a batch into the network's input.
        label_smoothing: of the loss.
        class_weights: of the loss, float32 [K] on the model's device; None: all 1.
        dtype: of autocast; None: none.
        ema: average of the weights to update; None: none.
        forward: how training calls the model, compiled or wrapped in DDP; None:
            the model itself.
        mixing: mixup and cutmix of the images; None: none.
        accumulate: parts in which a batch is computed.
        clip_norm: largest norm of the gradient; 0: not clipped.
        may_split: compute batches in more parts when memory runs out. Not where
            other ranks wait for this one in the backward pass.
        any_rank: returns whether a value is true on any rank. With it the first
            batch of a shape is tried without an exchange, and all ranks compute in
            the parts that the smallest memory needs. DDP must not have a static
            graph then, as it counts the backward passes of a step. None: not tried.
    """

    def __init__(  # noqa: PLR0913  (keyword-only options, each of them named by every caller)
        self,
        model: nn.Module,
        optimizer: Optimizer,
        normalize: Normalize,
        *,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
        dtype: torch.dtype | None = None,
        ema: ModelEma | None = None,
        forward: nn.Module | None = None,
        mixing: Mixing | None = None,
        accumulate: int = 1,
        clip_norm: float = 0.0,
        may_split: bool = True,
        any_rank: Callable[[bool], bool] | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.normalize = normalize
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights
        self.dtype = dtype
        self.ema = ema
        self.forward = model if forward is None else forward
        self.mixing = mixing or Mixing(0)
        self.accumulate = accumulate
        self.clip_norm = clip_norm
        self.may_split = may_split
        self.any_rank = any_rank
        self._tried_shape: torch.Size | None = None
        self.scaler = self._create_scaler()

    def _create_scaler(self) -> Any:
        amp: Any = torch.amp  # its types do not export GradScaler
        return amp.GradScaler("cuda", enabled=self.dtype is torch.float16)

    @property
    def is_recorded(self) -> bool:
        """Whether steps are replayed as a CUDA graph."""
        return False

    @property
    def kept_model(self) -> nn.Module:
        """The model that is evaluated and saved: the average if there is one."""
        return self.model if self.ema is None else self.ema.model

    def __call__(self, batch: Batch, step: int, metrics: Metrics) -> Tensor:
        """Train on a batch, and return its mean loss, a tensor [] on the device."""
        loss = self._train(batch.images, batch.labels, step, metrics)
        if self.ema is not None:
            self.ema.update(step)
        return loss

    def _train(self, images: Tensor, labels: Tensor, step: int, metrics: Metrics) -> Tensor:
        """Do everything but update the average, whose decay changes from step to step."""
        mixed, targets = self.mixing(self.normalize(images), labels, step)
        loss, logits = self._backward_in_memory(mixed, targets)
        self._update_weights(metrics)
        metrics.add(loss, logits, labels)
        return loss

    def _backward_in_memory(self, images: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """Compute the gradients, in more parts from now on if the memory does not suffice.

        The gradient is that of the same batch. Batch norm sees the parts.
        """
        if self.any_rank is not None and images.shape != self._tried_shape:
            self._split_on_all_ranks(images, targets, self.any_rank)
            self._tried_shape = images.shape

        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                return self._backward(images, targets)
            except torch.OutOfMemoryError:
                if not self._can_split(images, self.may_split):
                    raise
            # Here the error, which keeps what the failed part had allocated, is gone.
            self._double_parts(images)

    def _split_on_all_ranks(
        self, images: Tensor, targets: Targets, any_rank: Callable[[bool], bool]
    ) -> None:
        """Find the parts that fit on every rank, by a trial that changes neither weights nor statistics.

        A rank that fails while gradients are exchanged leaves the others waiting, so
        all must know before.
        """
        devices = [images.device] if images.is_cuda else []
        copies: list[Tensor] = []
        while True:
            error = None
            with torch.random.fork_rng(devices):
                try:
                    copies = copies or [buffer.clone() for buffer in self.model.buffers()]
                    self._backward(images, targets, exchange=False)
                except torch.OutOfMemoryError as caught:
                    error = caught.with_traceback(None)  # it keeps what was allocated
            self.optimizer.zero_grad(set_to_none=True)
            if copies:  # else there was no memory for them, and the trial did not begin
                for buffer, before in zip(self.model.buffers(), copies, strict=True):
                    buffer.copy_(before)

            if not any_rank(error is not None):
                return
            if not self._can_split(images, may_split=True):
                if error is not None:
                    raise error
                return  # the launcher ends this rank with the one that failed
            self._double_parts(images)

    def _double_parts(self, images: Tensor) -> None:
        """Compute batches in twice as many parts from now on."""
        self.accumulate *= 2
        torch.cuda.empty_cache()
        log(
            f"The memory of the GPU does not suffice for {len(images)} images at once: batches are computed in "
            f"{self.accumulate} parts from now on, as by --accumulate {self.accumulate}."
        )

    def _can_split(self, images: Tensor, may_split: bool) -> bool:
        """Return False for parts of one image, and while a graph is recorded, which would hold the failure."""
        is_recording = images.is_cuda and torch.cuda.is_current_stream_capturing()
        return may_split and not is_recording and 2 * self.accumulate <= len(images)

    def _backward(
        self, images: Tensor, targets: Targets, exchange: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Compute the gradients of the mean loss; return that loss and the logits, detached."""
        parts = list(
            zip(images.chunk(self.accumulate), targets.chunk(self.accumulate), strict=True)
        )
        losses = []
        logits = []
        for number, (part, target) in enumerate(parts):
            is_exchanged = exchange and number == len(parts) - 1
            with self._gradient_exchange(is_exchanged):
                with torch.autocast(part.device.type, self.dtype, enabled=self.dtype is not None):
                    output = self.forward(part)
                    loss = target.loss(output, self.label_smoothing, self.class_weights)
                    loss = loss * (len(part) / len(images))
                self.scaler.scale(loss).backward()
            losses.append(loss.detach())
            logits.append(output.detach())

        if len(parts) == 1:
            return losses[0], logits[0]
        return torch.stack(losses).sum(), torch.cat(logits)

    def _gradient_exchange(self, is_exchanged: bool) -> AbstractContextManager[None]:
        """Let ranks exchange gradients in the last part only: they need just the sum over the parts."""
        if is_exchanged or not hasattr(self.forward, "no_sync"):
            return nullcontext()
        no_sync: Any = self.forward.no_sync
        context: AbstractContextManager[None] = no_sync()
        return context

    def _update_weights(self, metrics: Metrics) -> None:
        """Clip the gradients and run the optimizer."""
        if self.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm, foreach=True)
        if not self.scaler.is_enabled():
            self.optimizer.step()
            return

        # An overflow lowers the scale. Comparing scales on the device counts it
        # without a host sync.
        one = torch.ones((), device=metrics.failed_steps.device)
        before = self.scaler.scale(one)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        metrics.failed_steps[1] += self.scaler.scale(one) < before
