"""The FFCV engine: betons through one compiled pass of our own, in our order and with our draws.

The format is FFCV's, and so is the JPEG library that its C extension brings; its Loader is not used, and `ffcv` is not
imported. Memory is bounded: each thread holds one decoded image, not a batch of the largest.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from trainer_classification.augment import cpu
from trainer_classification.data import beton
from trainer_classification.data.beton import BetonStore, open_beton
from trainer_classification.data.manifest import check_files, check_format
from trainer_classification.data.table import open_table
from trainer_classification.kernels import crops, turbojpeg
from trainer_classification.loaders.base import BatchSchedule, Loader, LoaderRequest
from trainer_classification.loaders.ring_buffer import RingBufferLoader
from trainer_classification.plan import Draws, Int64

_REASONS = {
    turbojpeg.UNREADABLE: "its JPEG is damaged",
    turbojpeg.OTHER_COLOURS: "its JPEG is neither YCbCr nor grey",
    crops.NO_MEMORY: "there is no memory to decode it",
    crops.TOO_LARGE: "it is more than 8 times as large as the batch's images",
}


def open_ffcv(request: LoaderRequest) -> Loader:
    """Open the loader of a split.

    Raises:
        ValueError: the split or the format is missing or damaged.
    """
    check_format(request.folder, request.manifest, "beton")
    check_files(request.folder, request.manifest, request.split, [beton.path(request.split)])
    files = open_table(request.folder, request.manifest, request.split).files
    store = open_beton(request.folder / beton.path(request.split))
    again = f"python scripts/prepare.py --dataset {request.manifest.dataset} --formats beton --force"
    return FfcvLoader(
        store,
        files,
        request.schedule,
        request.image_size,
        request.manifest.channels,
        not request.manifest.resized,
        request.device,
        request.threads,
        again,
    )


class FfcvLoader(RingBufferLoader):
    """Batches of a beton.

    Args:
        store: the split.
        files: the original file of each sample, for messages.
        share: which samples, how augmented.
        image_size: side T in px of the batches.
        channels: 1 or 3.
        kept: all images are raw and square, of one size, and may be shifted.
        device: where the batches go.
        threads: that make batches; 0: one for each CPU.
        again: the command that makes the beton anew, for messages.
    """

    def __init__(
        self,
        store: BetonStore,
        files: list[str],
        share: BatchSchedule,
        image_size: int,
        channels: int,
        kept: bool,
        device: torch.device,
        threads: int = 0,
        again: str = "prepare the dataset again",
    ) -> None:
        self.store, self.files, self.kept, self.again = store, files, kept, again
        self._side, self._widest = int(store.widths[0]), max(1, int(store.widths.max()))
        super().__init__(share, store.labels, image_size, channels, device, threads)

    def _make(self, index: Int64, draws: Draws, out: npt.NDArray[np.uint8]) -> None:
        if self.kept:
            self._make_kept(index, draws, out)
            return
        store = self.store
        about = store.modes, store.widths, store.heights, store.places, store.sizes
        status, row = crops.crops(store.data, *about, self._widest, index, draws.box, draws.flip, out)
        if status != 0:
            sample = int(index[row])
            raise ValueError(f"Sample {sample} ({self.files[sample]}) cannot be used: {_REASONS[status]}. {self.again}")
        cpu.cut_out(out, draws, self.schedule.policy)

    def _make_kept(self, index: Int64, draws: Draws, out: npt.NDArray[np.uint8]) -> None:
        """Raw RGB; of a grey dataset one channel is kept."""
        starts = np.where(index < 0, -1, self.store.places[index].astype(np.int64))
        grey = out.shape[3] == 1
        made = np.empty((*out.shape[:3], 3), np.uint8) if grey else out
        cpu.augment_at(self.store.data, starts, self._side, draws, self.schedule.policy, "HWC", made)
        if grey:
            out[:] = made[..., :1]

    def close(self) -> None:
        """End the threads and let go of the buffers and the memory map."""
        super().close()
        empty = np.empty(0, np.uint8)
        self.store = BetonStore(empty, *[np.empty(0, np.int64)] * 6)  # type: ignore[arg-type]
