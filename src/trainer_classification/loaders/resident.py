"""The resident loader: the whole array within reach, on the device that trains or in the host's memory.

On the device a batch is a few torch operations. In the host's memory the array is memory-mapped, and the threads of
`ring.py` run the kernels of `augment/cpu.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer_classification.augment import device as on_device
from trainer_classification.data.array import ArrayStore, open_array
from trainer_classification.loaders.base import Batch, BatchSchedule, Loader, LoaderRequest
from trainer_classification.loaders.ring_buffer import RingBufferLoader
from trainer_classification.plan import Draws, Int64

Uint8 = npt.NDArray[np.uint8]
_CHUNK = 64 << 20  # bytes uploaded at once
# Bytes of batches that are made at once: on a GPU a batch of small images costs its launches, not its pixels.
_AT_ONCE = 8 << 20


class DeviceResident(Loader):
    """The split lives on the device; needs torch and numpy alone.

    Args:
        store: the split.
        share: which samples, how augmented.
        image_size: side T in px of the batches.
        device: where the split goes.
    """

    def __init__(self, store: ArrayStore, share: BatchSchedule, image_size: int, device: torch.device) -> None:
        super().__init__(share)
        self.image_size, self.device, self.layout = image_size, device, store.layout
        self.images = _uploaded(store.images, device)
        self.labels = torch.from_numpy(store.labels).to(device)

    def _batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        draws = on_device.to_device(self.schedule.draws(epoch), self.device)
        batches = list(self.schedule.batches(epoch, start_step))
        if not batches:
            return
        # One copy an epoch: nothing waits for the host within it.
        indices = torch.from_numpy(np.stack([index for index, _ in batches])).to(self.device, non_blocking=True)
        labels, counts = self.labels[indices], iter([count for _, count in batches])
        together = max(1, _AT_ONCE // (self.schedule.rows * self.image_size**2 * self.images.shape[3]))
        for start in range(0, len(indices), together):
            some, of = indices[start : start + together], labels[start : start + together]
            index = some.flatten()
            images = on_device.augment(
                self.images, index, draws[index], self.schedule.policy, self.image_size, self.layout
            )
            for batch in zip(images.chunk(len(some)), of, some, strict=True):
                yield Batch(*batch, next(counts))

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


class HostResident(RingBufferLoader):
    """The split is memory-mapped; threads make batches ahead.

    Args:
        store: the split.
        share: which samples, how augmented.
        image_size: side T in px of the batches.
        device: where the batches go.
        threads: that make batches; 0: one for each CPU.
    """

    def __init__(
        self, store: ArrayStore, share: BatchSchedule, image_size: int, device: torch.device, threads: int = 0
    ) -> None:
        from trainer_classification.augment import cpu  # numba: not on a bare machine

        self.store, self._augment = store, cpu.augment
        super().__init__(share, store.labels, image_size, store.images.shape[3], device, threads)

    def _make(self, index: Int64, draws: Draws, out: Uint8) -> None:
        self._augment(self.store.images, index, draws, self.schedule.policy, out.shape[1], self.store.layout, out)

    def close(self) -> None:
        """End the threads and let go of the buffers and the memory map."""
        super().close()
        self.store = ArrayStore(np.empty((0, 0, 0, 0), np.uint8), np.empty(0, np.int64), np.empty((0, 2), np.int32))


def open_device_resident(request: LoaderRequest) -> DeviceResident:
    """Open the array of a split on the device that trains.

    Raises:
        ValueError: the split or the array is missing or damaged.
    """
    store = open_array(request.folder, request.manifest, request.split)
    return DeviceResident(store, request.schedule, request.image_size, request.device)


def open_host_resident(request: LoaderRequest) -> HostResident:
    """Open the array of a split in the host's memory.

    Raises:
        ValueError: the split or the array is missing or damaged.
    """
    store = open_array(request.folder, request.manifest, request.split)
    return HostResident(store, request.schedule, request.image_size, request.device, request.threads)
