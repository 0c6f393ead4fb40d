"""Accumulate loss and accuracy on the device, without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


class Metrics:
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
        return *summarize(self.sums), int(self.not_finite)

    def reset(self) -> None:
        """Start anew, but for the steps in a row and of the run."""
        self.sums.zero_()


def summarize(sums: Tensor) -> tuple[float, float, int]:
    """(mean loss, accuracy, images) of `Totals.sums`: waits for the device."""
    loss, right, count = sums.tolist()
    return loss / max(count, 1), right / max(count, 1), int(count)
