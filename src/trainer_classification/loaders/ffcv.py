"""The ffcv loader: betons through one compiled pass of our own, in our order and with our draws.

The file format and the JPEG library are FFCV's. Its Loader is not used, and
`ffcv` is never imported. Memory is
bounded: each thread holds one decoded image, not a batch of the largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from trainer_classification.arrays import Int64
from trainer_classification.augment import cpu
from trainer_classification.data.beton import BetonStore, open_split
from trainer_classification.data.table import open_table
from trainer_classification.kernels import crops, turbojpeg
from trainer_classification.loaders.base import BatchSchedule, Loader, LoaderRequest
from trainer_classification.loaders.ring_buffer import RingBufferLoader
from trainer_classification.plan import Draws

_REASONS = {
    turbojpeg.UNREADABLE: "its JPEG is damaged",
    turbojpeg.OTHER_COLOURS: "its JPEG is neither YCbCr nor gray",
    crops.NO_MEMORY: "there is no memory to decode it",
}


@dataclass(frozen=True)
class BetonSplit:
    """Describe one split of a beton.

    Attributes:
        store: the memory-mapped beton.
        files: the original file of each sample, for error messages.
        channels: 1 or 3.
        fixed_size: all images are raw squares of one size, and are shifted
            instead of resized.
        remedy: the advice at the end of an error message: how to make the beton
            again.
    """

    store: BetonStore
    files: Sequence[str]
    channels: int
    fixed_size: bool
    remedy: str = "Prepare the dataset again."


def open_ffcv(request: LoaderRequest) -> Loader:
    """Open the loader of a split.

    Raises:
        ValueError: the split or its beton is missing or damaged.
    """
    folder = request.folder
    manifest = request.manifest

    split = BetonSplit(
        store=open_split(folder, manifest, request.split),
        files=open_table(folder, manifest, request.split).files,
        channels=manifest.channels,
        fixed_size=not manifest.resized,
        remedy=(
            f"Prepare again: python scripts/prepare.py --dataset {manifest.dataset} --formats beton --force"
        ),
    )

    return FfcvLoader(split, request.schedule, request.image_size, request.device, request.threads)


class FfcvLoader(RingBufferLoader):
    """Deliver the batches of a beton.

    Args:
        split: the beton and what its messages name.
        schedule: the samples of each batch and their augmentation.
        image_size: side T of the batches in px.
        device: where the batches are delivered.
        threads: threads that make batches. 0: one per CPU.
    """

    def __init__(
        self,
        split: BetonSplit,
        schedule: BatchSchedule,
        image_size: int,
        device: torch.device,
        threads: int = 0,
    ) -> None:
        self.split = split
        self.store = split.store
        self._side = int(split.store.widths[0])
        self._widest = max(1, int(split.store.widths.max()))
        super().__init__(
            schedule, split.store.labels, image_size, split.channels, device=device, threads=threads
        )

    def _make(self, index: Int64, draws: Draws, out: npt.NDArray[np.uint8]) -> None:
        if self.split.fixed_size:
            self._make_fixed_size(index, draws, out)
            return

        store = self.store
        images = store.modes, store.widths, store.heights, store.places, store.sizes
        status, row = crops.crops(
            store.data, *images, self._widest, index, draws.box, draws.flip, out
        )
        if status != 0:
            sample = int(index[row])
            file = self.split.files[sample]
            raise ValueError(
                f"Sample {sample} ({file}) cannot be used: {_REASONS[status]}. {self.split.remedy}"
            )
        cpu.finish(out, draws, self.schedule.policy)

    def _make_fixed_size(self, index: Int64, draws: Draws, out: npt.NDArray[np.uint8]) -> None:
        """Write a batch of raw images.

        They are stored as RGB, so a gray dataset keeps one channel of three.
        """
        starts = np.where(index < 0, -1, self.store.places[index].astype(np.int64))
        gray = out.shape[3] == 1
        images = np.empty((*out.shape[:3], 3), np.uint8) if gray else out
        cpu.augment_at(
            self.store.data, starts, self._side, draws, self.schedule.policy, "HWC", images
        )
        if gray:
            out[:] = images[..., :1]

    def close(self) -> None:
        """End the threads and release the buffers and the memory map."""
        super().close()
        empty = np.empty(0, np.uint8)
        self.store = BetonStore(empty, *[np.empty(0, np.int64)] * 6)  # type: ignore[arg-type]
        self.split = BetonSplit(self.store, [], self.split.channels, self.split.fixed_size)
