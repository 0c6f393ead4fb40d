"""Base class of loaders that make batches on the host: threads work ahead, without the GIL, into a ring of buffers.

For a GPU the buffers are pinned, and copied on a stream of their own.
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
import torch
from torch import Tensor

from trainer_classification.arrays import Int64, Uint8
from trainer_classification.environment import spare_cpus
from trainer_classification.loaders.base import Batch, BatchSchedule, Loader
from trainer_classification.plan import Draws, EpochDraws

# The draws of all samples, and (index, count) of each batch.
EpochPlan = tuple[EpochDraws, list[tuple[Int64, int]]]

cuda: Any = torch.cuda  # its streams and events are untyped


@dataclass
class _Slot:
    """Hold one batch in the ring: its buffers on the host, and the event that says a GPU has read them."""

    images: Tensor
    labels: Tensor
    index: Tensor
    copied: torch.cuda.Event | None = None
    count: int = 0


class RingBufferLoader(Loader):
    """Deliver batches that threads make on the host.

    An engine implements `_make`, which must release the GIL while it works, and
    extends `close`.

    Args:
        schedule: the samples of each batch and their augmentation.
        labels: int64 [n], of all samples.
        image_size: side T of the batches in px.
        channels: C of the batches.
        device: where the batches are delivered.
        threads: threads that make batches. 0: one per CPU that others leave.
    """

    def __init__(
        self,
        schedule: BatchSchedule,
        labels: Int64,
        image_size: int,
        channels: int,
        *,
        device: torch.device,
        threads: int = 0,
    ) -> None:
        super().__init__(schedule)
        threads = threads or spare_cpus()
        self.labels = labels
        self.device = device
        self._pool = ThreadPoolExecutor(threads, "loader")
        self._stream = cuda.Stream(device) if device.type == "cuda" else None

        shape = (schedule.rows, image_size, image_size, channels)
        self._ring = [self._allocate_slot(shape) for _ in range(threads + 2)]
        self._ahead: dict[int, Future[EpochPlan]] = {}

        try:
            # Load the kernels now (or compile them, the first time), not within
            # the first training step. Padding rows read no image, which may be far.
            index = np.full(schedule.rows, -1)
            self._fill(self._ring[0], schedule.draws(0), index, 0)
        except BaseException:
            self.close()
            raise

    def _allocate_slot(self, shape: tuple[int, ...]) -> _Slot:
        pin = self._stream is not None
        images = torch.empty(shape, dtype=torch.uint8, pin_memory=pin)
        labels = torch.empty(shape[0], dtype=torch.int64, pin_memory=pin)
        index = torch.empty(shape[0], dtype=torch.int64, pin_memory=pin)
        return _Slot(images, labels, index, cuda.Event() if pin else None)

    def _batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        draws, batches = self._plan_epoch(epoch)
        jobs = zip(cycle(self._ring), batches[start_step:])
        pending = deque(
            self._pool.submit(self._fill, slot, draws, *job)
            for slot, job in islice(jobs, len(self._ring))
        )
        try:
            while pending:
                # Until here the consumer used the batch yielded last, so its
                # buffers are free again only now.
                yield self._deliver(pending.popleft().result())
                for slot, job in islice(jobs, 1):
                    pending.append(self._pool.submit(self._fill, slot, draws, *job))
        finally:
            for future in pending:
                if not future.cancel():
                    future.exception()  # waits for the thread, which still writes into a buffer

    def _plan_epoch(self, epoch: int) -> EpochPlan:
        """Return the plan of the epoch, and start to draw that of the next one in a thread."""

        def draw(epoch: int) -> EpochPlan:
            return self.schedule.draws(epoch), list(self.schedule.batches(epoch))

        planned = self._ahead.pop(epoch, None)
        self._ahead = {epoch + 1: self._pool.submit(draw, epoch + 1)}
        return planned.result() if planned is not None else draw(epoch)

    def _fill(self, slot: _Slot, draws: EpochDraws, index: Int64, count: int) -> _Slot:
        if slot.copied is not None:
            slot.copied.synchronize()
        self._make(index, draws[index], slot.images.numpy())
        np.take(self.labels, index, out=slot.labels.numpy())
        slot.index.numpy()[:] = index
        slot.count = count
        return slot

    def _deliver(self, slot: _Slot) -> Batch:
        """Return the batch of a slot, on a GPU after a copy that the training stream waits for."""
        if self._stream is None:
            return Batch(slot.images, slot.labels, slot.index, slot.count)

        tensors = slot.images, slot.labels, slot.index
        with torch.cuda.stream(self._stream):
            images, labels, index = (
                tensor.to(self.device, non_blocking=True) for tensor in tensors
            )
            cast(Any, slot.copied).record(self._stream)

        training = torch.cuda.current_stream(self.device)
        training.wait_stream(self._stream)
        for tensor in (images, labels, index):
            tensor.record_stream(training)

        return Batch(images, labels, index, slot.count)

    @abstractmethod
    def _make(self, index: Int64, draws: Draws, out: Uint8) -> None:
        """Write the images of one batch.

        Args:
            index: int64 [B], sample ids, -1 in padding rows.
            draws: the draws of these B rows.
            out: uint8 [B, T, T, C], the buffer to write.
        """

    def close(self) -> None:
        """End the threads and release the buffers."""
        self._end_epoch()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._ring.clear()
        self._ahead.clear()
