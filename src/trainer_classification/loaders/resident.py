"""The resident loader: the whole array within reach, on the device that trains or in the host's memory.

On the device a batch is a few torch operations. In the host's memory the array is memory-mapped; threads run the
kernels of `augment/cpu.py` without the GIL, batches ahead, into a ring of buffers (pinned, and copied on a stream of
their own, where the device is a GPU).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from trainer_classification import plan as planning
from trainer_classification.augment import device as on_device
from trainer_classification.config import cpu_count
from trainer_classification.data.array import ArrayStore
from trainer_classification.loaders.base import Batch, Loader, Share
from trainer_classification.plan import Draws, Int64

cuda: Any = torch.cuda  # its streams and events have no types
_CHUNK = 64 << 20  # bytes uploaded at once


class DeviceResident(Loader):
    """The split lives on the device; needs torch and numpy alone.

    Args:
        store: the split.
        share: which samples, how augmented.
        image_size: side T in px of the batches.
        device: where the split goes.
    """

    def __init__(self, store: ArrayStore, share: Share, image_size: int, device: torch.device) -> None:
        super().__init__(share)
        self.image_size, self.device, self.layout = image_size, device, store.layout
        self.images = _uploaded(store.images, device)
        self.labels = torch.from_numpy(store.labels).to(device)

    def _batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        draws = on_device.to_device(self.share.draws(epoch), self.device)
        batches = list(self.share.batches(epoch, start_step))
        if not batches:
            return
        # One copy an epoch: nothing waits for the host within it.
        indices = torch.from_numpy(np.stack([index for index, _ in batches])).to(self.device, non_blocking=True)
        for index, (_, count) in zip(indices, batches, strict=True):
            images = on_device.augment(
                self.images, index, draws[index], self.share.policy, self.image_size, self.layout
            )
            yield Batch(images, self.labels[index], index, count)

    def close(self) -> None:
        """Free the device's memory."""
        self._end_epoch()
        self.images = self.labels = torch.empty(0)


def _uploaded(images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], device: torch.device) -> Tensor:
    """A copy on the device, made in pieces so that the host holds one piece at a time."""
    there = torch.empty(images.shape, dtype=torch.uint8, device=device)
    rows = max(1, _CHUNK // max(1, images[:1].nbytes))
    for start in range(0, len(images), rows):
        there[start : start + rows].copy_(torch.from_numpy(np.array(images[start : start + rows])))
    return there


@dataclass
class _Slot:
    """One place of the ring: buffers on the host, and when a GPU has read them."""

    images: Tensor
    labels: Tensor
    index: Tensor
    copied: torch.cuda.Event | None = None
    count: int = 0


class HostResident(Loader):
    """The split is memory-mapped; threads make batches ahead.

    Args:
        store: the split.
        share: which samples, how augmented.
        image_size: side T in px of the batches.
        device: where the batches go.
        threads: that make batches; 0: one for each CPU.
    """

    def __init__(
        self, store: ArrayStore, share: Share, image_size: int, device: torch.device, threads: int = 0
    ) -> None:
        from trainer_classification.augment import cpu  # numba: not on a bare machine

        super().__init__(share)
        self.store, self.device, self._augment = store, device, cpu.augment
        threads = threads or cpu_count()
        self._pool = ThreadPoolExecutor(threads, "resident")
        self._stream = cuda.Stream(device) if device.type == "cuda" else None
        shape = (share.rows, image_size, image_size, store.images.shape[3])
        self._ring = [self._slot(shape) for _ in range(threads + 2)]
        self._ahead: dict[int, Future[tuple[Draws, list[tuple[Int64, int]]]]] = {}
        # Loads (or the first time compiles) the kernels now, not within the first step.
        self._fill(self._ring[0], planning.identity(share.count), np.zeros(share.rows, np.int64), 0)

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
            return self.share.draws(epoch), list(self.share.batches(epoch))

        planned = self._ahead.pop(epoch, None)
        self._ahead = {epoch + 1: self._pool.submit(draw, epoch + 1)}
        return planned.result() if planned is not None else draw(epoch)

    def _fill(self, slot: _Slot, draws: Draws, index: Int64, count: int) -> _Slot:
        if slot.copied is not None:
            slot.copied.synchronize()
        size = slot.images.shape[1]
        self._augment(
            self.store.images, index, draws[index], self.share.policy, size, self.store.layout, slot.images.numpy()
        )
        np.take(self.store.labels, index, out=slot.labels.numpy())
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

    def close(self) -> None:
        """End the threads and let go of the buffers and the memory map."""
        self._end_epoch()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._ring.clear()
        self._ahead.clear()
        self.store = ArrayStore(np.empty((0, 0, 0, 0), np.uint8), np.empty(0, np.int64), np.empty((0, 2), np.int32))
