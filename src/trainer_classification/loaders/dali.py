"""The dali loader: NVIDIA's library decodes, crops, resizes and mirrors, in our order and with our draws.

Large images are the original files in memory-mapped tars, of which only the drawn box is decoded; small ones are rows
of the array. On a GPU decoding is `mixed` (nvJPEG) and the rest runs there; the batch is handed over by DLPack.

https://docs.nvidia.com/deeplearning/dali/user-guide/docs/
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from trainer_classification.augment.reference import resizes
from trainer_classification.data.array import ArrayStore, open_array
from trainer_classification.data.manifest import check_files, check_format
from trainer_classification.data.table import Table, open_table
from trainer_classification.data.tar import TarStore, open_tars
from trainer_classification.environment import cpu_count
from trainer_classification.loaders.base import Batch, BatchSchedule, Loader, LoaderRequest
from trainer_classification.loaders.dali_pipeline import Graph, build, inputs_of
from trainer_classification.plan import Draws, Int64


@dataclass(frozen=True)
class _Job:
    """A batch that DALI works on; keeps what it reads."""

    index: Int64
    count: int
    inputs: list[Any]


class DaliLoader(Loader):
    """Batches by a DALI pipeline.

    Args:
        store: the split's files, or its pixels.
        table: the split's table.
        share: which samples, how augmented.
        image_size: side T in px of the batches.
        channels: 1 or 3.
        device: where the batches go.
        threads: of DALI; 0: one for each CPU.
    """

    def __init__(
        self,
        store: TarStore | ArrayStore,
        table: Table,
        share: BatchSchedule,
        image_size: int,
        channels: int,
        device: torch.device,
        threads: int = 0,
    ) -> None:
        super().__init__(share)
        self.device, self.table, gpu = device, table, device.type == "cuda"
        encoded = isinstance(store, TarStore)
        cut = isinstance(store, TarStore) or resizes(share.policy, store.images.shape[1], image_size)
        self.graph = Graph(encoded, cut, channels, image_size, share.policy, gpu)
        self.labels = torch.from_numpy(table.labels).to(device)
        self._image = _images_of(store)
        self._jobs: Iterator[_Job] = iter(())
        self._running_jobs: deque[_Job] = deque()
        device_id = (device.index if device.index is not None else torch.cuda.current_device()) if gpu else None
        self._pipeline = build(self.graph, self._next, share.rows, threads or cpu_count(), device_id)
        self._pipeline.build()

    def _next(self) -> list[Any]:
        """DALI asks for the inputs of the next batch; StopIteration where the epoch ends."""
        job = next(self._jobs)
        self._running_jobs.append(job)
        return job.inputs

    def _planned(self, draws: Draws, batches: list[tuple[Int64, int]]) -> Iterator[_Job]:
        for index, count in batches:
            rows = np.maximum(index, 0)  # padding rows show sample 0
            images = [self._image(row) for row in rows.tolist()]
            given = inputs_of(self.graph, draws[rows], self.table.sizes[rows])
            yield _Job(index, count, [images, *(given[name] for name in self.graph.inputs[1:])])

    def _batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        batches = list(self.schedule.batches(epoch, start_step))
        if not batches:
            return
        # One copy an epoch: nothing waits for the host within it.
        indices = torch.from_numpy(np.stack([index for index, _ in batches])).to(self.device, non_blocking=True)
        self._jobs = self._planned(self.schedule.draws(epoch), batches)
        try:
            self._pipeline.schedule_run()
            for index in indices:
                images = self._delivered()
                count = self._running_jobs.popleft().count
                # What DALI hands over by DLPack is the tensor's own: the next batches never write there.
                self._pipeline.release_outputs()
                self._pipeline.schedule_run()
                yield Batch(images, self.labels[index], index, count)
                del images
        finally:
            self._drain()

    def _delivered(self) -> Tensor:
        stream = torch.cuda.current_stream(self.device) if self.graph.gpu else None
        try:
            (images,) = self._pipeline.share_outputs(stream)
        except RuntimeError as error:
            self._pipeline = None  # DALI takes no more work after an error
            raise ValueError(self._reason(error)) from error
        return from_dlpack(images.as_tensor())

    def _reason(self, error: RuntimeError) -> str:
        """Which image DALI could not decode. It names none, so those that it was given are looked at again."""
        from trainer_classification.data.decode import BadImageError, decode

        for job in self._running_jobs if self.graph.encoded else ():
            for sample in np.maximum(job.index, 0).tolist():
                try:
                    decode(self._image(sample).tobytes(), "")
                except BadImageError as bad:
                    name = self.table.files[sample]
                    return f"Image {sample} ({name}) is damaged in its tar: {bad}. Prepare again with --force."
        return f"DALI cannot make a batch of images {self._running_jobs[0].index.tolist()}: {error}"

    def _drain(self) -> None:
        """Let DALI finish what it has begun, and drop it: the next epoch starts from nothing."""
        self._jobs = iter(())
        if self._pipeline is None:
            return
        self._pipeline.schedule_run()  # meets the end of the epoch, which `reset` asks for
        while not self._pipeline.empty():
            self._pipeline.share_outputs()
            self._pipeline.release_outputs()
        self._running_jobs.clear()
        self._pipeline.reset()

    def close(self) -> None:
        """End DALI's threads, free its memory, and let go of the memory map."""
        self._end_epoch()
        self._pipeline = None
        self._image = lambda _: np.empty(0, np.uint8)
        self.labels = torch.empty(0)


def _images_of(store: TarStore | ArrayStore) -> Callable[[int], npt.NDArray[np.uint8]]:
    """Sample id -> its file's bytes, or pixels; plain views, which are quicker to make than those of np.memmap."""
    if isinstance(store, ArrayStore):
        return np.asarray(store.images).__getitem__
    shards = [np.asarray(shard) for shard in store.shards]
    places = list(
        zip(store.shard.tolist(), store.offsets.tolist(), (store.offsets + store.sizes).tolist(), strict=True)
    )

    def image(sample: int) -> npt.NDArray[np.uint8]:
        shard, start, end = places[sample]
        return shards[shard][start:end]

    return image


def open_dali(request: LoaderRequest) -> DaliLoader:
    """Open a split for DALI: the tars of images that were resized, the array of those kept at their size.

    Raises:
        ValueError: the split or its format is missing or damaged.
    """
    folder, manifest, split = request.folder, request.manifest, request.split
    table = open_table(folder, manifest, split)
    store: TarStore | ArrayStore
    if manifest.resized:
        check_format(folder, manifest, "tar")
        check_files(folder, manifest, split, [name for name in manifest.files if name.startswith(f"tar/{split}-")])
        store = open_tars(folder / "tar", split, manifest.splits[split].count)
    else:
        store = open_array(folder, manifest, split)
    return DaliLoader(
        store, table, request.schedule, request.image_size, manifest.channels, request.device, request.threads
    )
