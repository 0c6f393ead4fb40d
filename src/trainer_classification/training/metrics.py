"""Accumulate loss and accuracy on the device, without a host sync."""

from __future__ import annotations

import torch
from torch import Tensor


class Metrics:
    """Sum loss, correct predictions and images on the device, and count the steps that failed.

    Attributes:
        sums: float64 [3]: loss, correct predictions and images since the last
            reset.
        not_finite: int64 []: consecutive steps, up to the last one, whose loss
            was not finite.
        failed_steps: int64 [2], of the whole run: steps whose loss was not
            finite, and steps that were skipped because fp16 overflowed.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)
        self._loss, self._correct, self._images = self.sums.unbind()
        self.not_finite = torch.zeros((), dtype=torch.int64, device=device)
        self.failed_steps = torch.zeros(2, dtype=torch.int64, device=device)

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a step, in place and in few operations, without a host sync.

        Args:
            loss: float [], mean over the batch.
            logits: float [B, K].
            labels: int64 [B].
        """
        self._loss.add_(loss, alpha=len(labels))
        self._correct.add_((logits.argmax(1) == labels).sum())
        self._images.add_(len(labels))
        failed = torch.isfinite(loss).logical_not_()
        self.not_finite.add_(1).mul_(failed)
        self.failed_steps[0] += failed

    def read(self) -> tuple[float, float, int, int]:
        """Return mean loss, accuracy, images, and consecutive steps that were not finite; waits for the device."""
        return *summarize(self.sums), int(self.not_finite)

    def reset(self) -> None:
        """Set the sums to zero; the counts of steps stay."""
        self.sums.zero_()


def summarize(sums: Tensor) -> tuple[float, float, int]:
    """Return mean loss, accuracy and images from `Metrics.sums`; waits for the device."""
    loss, correct, count = sums.tolist()
    return loss / max(count, 1), correct / max(count, 1), int(count)
