"""The contract of every loader: exactly the planned batches, as uint8 NHWC on the training device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from torch import Tensor


@dataclass
class Batch:
    """One rank's share of a global batch. Valid until the next one is asked for: loaders reuse their buffers.

    Attributes:
        images: uint8 [B, H, W, C], contiguous, on the training device; `images.permute(0, 3, 1, 2)` is channels-last.
        labels: int64 [B], on the same device.
        index: int64 [B], sample ids on the same device, -1 in padding rows (their images and labels are any).
        count: rows that are real; they come first.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    count: int


class Loader(Protocol):
    """Delivers the batches of one split, for training (planned order and draws) or evaluation (in order, once each)."""

    steps: int  # batches an epoch
    samples: int  # samples of the split, over all ranks

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of this epoch from `start_step` on. One epoch at a time: a new one ends the one before."""
        ...

    def close(self) -> None:
        """Free threads, memory and file handles. May be called twice."""
        ...

    def __enter__(self) -> Loader: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
