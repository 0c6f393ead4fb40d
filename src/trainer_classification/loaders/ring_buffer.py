"""Loaders whose batches are made on the host: threads work ahead, without the GIL, into a ring of buffers.

Where the device is a GPU the buffers are pinned, and copied on a stream of their own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer_classification import plan as planning
from trainer_classification.environment import cpu_count
from trainer_classification.loaders.base import Batch, BatchSchedule, Loader
from trainer_classification.plan import Draws, Int64

Uint8 = npt.NDArray[np.uint8]
cuda: Any = torch.cuda  # its streams and events have no types


@dataclass
class _Slot:
    """One place of the ring: buffers on the host, and when a GPU has read them."""

    images: Tensor
    labels: Tensor
    index: Tensor
    copied: torch.cuda.Event | None = None
    count: int = 0


class RingBufferLoader(Loader):
    """An engine implements `_make`, which releases the GIL while it works, and extends `close`.

    Args:
        share: which samples, how augmented.
        labels: int64 [n], of all samples.
        image_size: side T in px of the batches.
        channels: C of the batches.
        device: where the batches go.
        threads: that make batches; 0: one for each CPU.
    """

    def __init__(
        self,
        share: BatchSchedule,
        labels: Int64,
        image_size: int,
        channels: int,
        device: torch.device,
        threads: int = 0,
    ) -> None:
        super().__init__(share)
        self.labels, self.device = labels, device
        threads = threads or cpu_count()
        self._pool = ThreadPoolExecutor(threads, "loader")
        self._stream = cuda.Stream(device) if device.type == "cuda" else None
        shape = (share.rows, image_size, image_size, channels)
        self._ring = [self._slot(shape) for _ in range(threads + 2)]
        self._ahead: dict[int, Future[tuple[Draws, list[tuple[Int64, int]]]]] = {}
        try:
            # Loads (or the first time compiles) the kernels now, not within the first step.
            self._fill(self._ring[0], planning.identity(share.count), np.zeros(share.rows, np.int64), 0)
        except BaseException:
            self.close()
            raise

    def _slot(self, shape: tuple[int, ...]) -> _Slot:
        pin = self._stream is not None
        images = torch.empty(shape, dtype=torch.uint8, pin_memory=pin)
        labels, index = (torch.empty(shape[0], dtype=torch.int64, pin_memory=pin) for _ in range(2))
        return _Slot(images, labels, index, cuda.Event() if pin else None)

    def _batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        draws, batches = self._planned(epoch)
        jobs = zip(cycle(self._ring), batches[start_step:])
        pending = deque(self._pool.submit(self._fill, slot, draws, *job) for slot, job in islice(jobs, len(self._ring)))
        try:
            while pending:
                # The batch yielded last is the consumer's until now, so its buffers are free again only here.
                yield self._handed_over(pending.popleft().result())
                for slot, job in islice(jobs, 1):
                    pending.append(self._pool.submit(self._fill, slot, draws, *job))
        finally:
            for future in pending:
                future.cancel() or future.exception()

    def _planned(self, epoch: int) -> tuple[Draws, list[tuple[Int64, int]]]:
        """Draws and batches of the epoch; those of the next one are drawn meanwhile."""

        def draw(epoch: int) -> tuple[Draws, list[tuple[Int64, int]]]:
            return self.schedule.draws(epoch), list(self.schedule.batches(epoch))

        planned = self._ahead.pop(epoch, None)
        self._ahead = {epoch + 1: self._pool.submit(draw, epoch + 1)}
        return planned.result() if planned is not None else draw(epoch)

    def _fill(self, slot: _Slot, draws: Draws, index: Int64, count: int) -> _Slot:
        if slot.copied is not None:
            slot.copied.synchronize()
        self._make(index, draws[index], slot.images.numpy())
        np.take(self.labels, index, out=slot.labels.numpy())
        slot.index.numpy()[:] = index
        slot.count = count
        return slot

    def _handed_over(self, slot: _Slot) -> Batch:
        if self._stream is None:
            return Batch(slot.images, slot.labels, slot.index, slot.count)
        tensors = slot.images, slot.labels, slot.index
        with torch.cuda.stream(self._stream):
            images, labels, index = (tensor.to(self.device, non_blocking=True) for tensor in tensors)
            cast(Any, slot.copied).record(self._stream)
        training = torch.cuda.current_stream(self.device)
        training.wait_stream(self._stream)
        for tensor in (images, labels, index):
            tensor.record_stream(training)
        return Batch(images, labels, index, slot.count)

    @abstractmethod
    def _make(self, index: Int64, draws: Draws, out: Uint8) -> None:
        """Write the images of a batch: int64 [B] with -1 in padding rows, their draws -> uint8 [B, T, T, C]."""

    def close(self) -> None:
        """End the threads and let go of the buffers."""
        self._end_epoch()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._ring.clear()
        self._ahead.clear()
