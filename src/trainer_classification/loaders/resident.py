"""The resident loader: the whole array within reach, on the training device or memory-mapped on the host.

On the device, a batch is a few torch operations. On the host, the threads of
`ring_buffer.py` run the kernels of `augment/cpu.py` over the memory-mapped array.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from trainer_classification.arrays import Int64, Uint8
from trainer_classification.augment import device as device_augment
from trainer_classification.augment.reference import stored_shape
from trainer_classification.data.array import ArrayStore, open_array
from trainer_classification.data.planes import open_planes
from trainer_classification.loaders.base import Batch, BatchSchedule, Loader, LoaderRequest
from trainer_classification.loaders.ring_buffer import RingBufferLoader
from trainer_classification.plan import Draws, EpochDraws

_UPLOAD_BYTES = 64 << 20
# Bytes of batches augmented in one go. On a GPU, a batch of small images costs
# its kernel launches, not its pixels.
_GROUP_BYTES = 8 << 20
_DRAWN_AT_ONCE = 8192  # samples


class DeviceResident(Loader):
    """Deliver batches from a split that is held on the training device.

    Needs torch and numpy only.

    Args:
        store: the split.
        schedule: the samples of each batch and their augmentation.
        image_size: side T of the batches in px.
        device: where the split is held.
    """

    def __init__(
        self, store: ArrayStore, schedule: BatchSchedule, image_size: int, device: torch.device
    ) -> None:
        super().__init__(schedule)
        self.image_size = image_size
        self.device = device
        self.layout = store.layout
        self.images = _upload(store.images, device)
        self.labels = torch.from_numpy(store.labels).to(device)

    def _batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        draws = self.schedule.draws(epoch)
        batches = list(self.schedule.batches(epoch, start_step))
        if not batches:
            return

        # One copy per epoch, and pinned ones of the draws: nothing below waits for
        # the device.
        samples = np.stack([index for index, _ in batches])
        indices = torch.from_numpy(samples).to(self.device, non_blocking=True)
        labels = self.labels[indices]
        counts = iter([count for _, count in batches])
        _, channels = stored_shape(self.images.shape, self.layout)
        batch_bytes = self.schedule.rows * self.image_size**2 * channels
        group = max(1, _GROUP_BYTES // batch_bytes)
        drawn_groups = _draw_groups(draws, samples, group)

        for start in range(0, len(indices), group):
            group_indices = indices[start : start + group]
            group_labels = labels[start : start + group]
            index = group_indices.flatten()
            drawn = device_augment.to_device(next(drawn_groups), self.device)
            images = device_augment.augment(
                self.images, index, drawn, self.schedule.policy, self.image_size, self.layout
            )
            for batch in zip(
                images.chunk(len(group_indices)), group_labels, group_indices, strict=True
            ):
                yield Batch(*batch, next(counts))

    def close(self) -> None:
        """Free the device's memory."""
        self._end_epoch()
        self.images = torch.empty(0)
        self.labels = torch.empty(0)


def _draw_groups(draws: EpochDraws, samples: Int64, group: int) -> Iterator[Draws]:
    """Yield the draws of each group of batches, many groups drawn at once: without numba that is faster.

    Args:
        draws: of the epoch.
        samples: int64 [steps, B], the ids of each batch.
        group: batches of a group.
    """
    rows = group * samples.shape[1]
    batches = group * max(1, _DRAWN_AT_ONCE // rows)
    for start in range(0, len(samples), batches):
        drawn = draws[samples[start : start + batches].flatten()]
        for first in range(0, len(drawn.flip), rows):
            yield drawn[first : first + rows]


def _upload(
    images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], device: torch.device
) -> Tensor:
    """Copy images to the device in pieces, so that the host holds one piece at a time."""
    uploaded = torch.empty(images.shape, dtype=torch.uint8, device=device)
    rows = max(1, _UPLOAD_BYTES // max(1, images[:1].nbytes))
    for start in range(0, len(images), rows):
        piece = np.array(images[start : start + rows])
        uploaded[start : start + rows].copy_(torch.from_numpy(piece))
    return uploaded


class HostResident(RingBufferLoader):
    """Deliver batches from a memory-mapped split.

    Threads make them ahead of the training step.

    Args:
        store: the split.
        schedule: the samples of each batch and their augmentation.
        image_size: side T of the batches in px.
        device: where the batches are delivered.
        threads: threads that make batches. 0: one per CPU that others leave.
    """

    def __init__(
        self,
        store: ArrayStore,
        schedule: BatchSchedule,
        image_size: int,
        device: torch.device,
        threads: int = 0,
    ) -> None:
        from trainer_classification.augment import cpu  # needs numba, which a bare machine lacks

        self.store = store
        self._augment = cpu.augment
        _, channels = stored_shape(store.images.shape, store.layout)
        super().__init__(
            schedule, store.labels, image_size, channels, device=device, threads=threads
        )

    def _batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        with self.schedule.fetching(self.store.remote, epoch, start_step):
            yield from super()._batches(epoch, start_step)

    def _make(self, index: Int64, draws: Draws, out: Uint8) -> None:
        if self.store.remote is not None:
            self.store.remote.require(index)
        self._augment(
            self.store.images,
            index,
            draws,
            self.schedule.policy,
            out.shape[1],
            self.store.layout,
            out,
        )

    def close(self) -> None:
        """End the threads and release the buffers and the memory map."""
        super().close()
        self.store = ArrayStore(
            np.empty((0, 0, 0, 0), np.uint8), np.empty(0, np.int64), np.empty((0, 2), np.int32)
        )


def open_device_resident(request: LoaderRequest) -> DeviceResident:
    """Open the array of a split on the training device.

    Raises:
        ValueError: the split or its array is missing or damaged.
    """
    return _open_device(request, open_array)


def open_device_planes(request: LoaderRequest) -> DeviceResident:
    """Open the planes of a split on the training device; the array of one whose images keep their size.

    Raises:
        ValueError: the split or its planes are missing or damaged.
    """
    return _open_device(request, open_planes if request.manifest.resized else open_array)


def _open_device(request: LoaderRequest, open_images: Callable[..., ArrayStore]) -> DeviceResident:
    store = open_images(request.folder, request.manifest, request.split)
    return DeviceResident(store, request.schedule, request.image_size, request.device)


def open_host_resident(request: LoaderRequest) -> HostResident:
    """Open the array of a split in the memory of the host.

    Raises:
        ValueError: the split or its array is missing or damaged.
    """
    return _open_host(request, open_array)


def open_host_planes(request: LoaderRequest) -> HostResident:
    """Open the planes of a split in the memory of the host; the array of one whose images keep their size.

    Raises:
        ValueError: the split or its planes are missing or damaged.
    """
    return _open_host(request, open_planes if request.manifest.resized else open_array)


def _open_host(request: LoaderRequest, open_images: Callable[..., ArrayStore]) -> HostResident:
    store = open_images(request.folder, request.manifest, request.split, on_demand=True)
    return HostResident(
        store, request.schedule, request.image_size, request.device, request.threads
    )
