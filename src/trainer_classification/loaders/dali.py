"""The dali loader: NVIDIA's library decodes, crops, resizes and mirrors, in our order and with our draws.

Large images are the original files in memory-mapped tars, and only the drawn box
of each is decoded. Small ones are rows of the array. On a GPU, `mixed` decodes
(nvJPEG), the rest runs there too, and DLPack passes the batch on.

https://docs.nvidia.com/deeplearning/dali/user-guide/docs/
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from trainer_classification.arrays import Int64
from trainer_classification.augment.device import finish, to_device
from trainer_classification.augment.reference import resizes
from trainer_classification.crop_boxes import load_kernels
from trainer_classification.data.array import ArrayStore, open_array
from trainer_classification.data.table import Table, open_table
from trainer_classification.data.tar import TarStore, open_split
from trainer_classification.environment import spare_cpus
from trainer_classification.loaders.base import Batch, BatchSchedule, Loader, LoaderRequest
from trainer_classification.loaders.dali_pipeline import Graph, build, make_inputs
from trainer_classification.plan import Draws, EpochDraws


@dataclass(frozen=True)
class _Job:
    """Hold a batch that DALI works on, and keep alive the memory that it reads."""

    index: Int64
    count: int
    inputs: list[Any]
    draws: Draws


class DaliLoader(Loader):
    """Deliver the batches of a DALI pipeline.

    Args:
        store: the encoded files of the split, or its pixels.
        table: the split's table.
        schedule: the samples of each batch and their augmentation.
        image_size: side T of the batches in px.
        channels: 1 or 3.
        device: where the batches are delivered.
        threads: DALI's threads. 0: one per CPU.
    """

    def __init__(
        self,
        store: TarStore | ArrayStore,
        table: Table,
        schedule: BatchSchedule,
        image_size: int,
        channels: int,
        *,
        device: torch.device,
        threads: int = 0,
    ) -> None:
        super().__init__(schedule)
        self.device = device
        self.table = table
        self.labels = torch.from_numpy(table.labels).to(device)
        self._read_images = _image_reader(store, table.files)
        self._remote = store.remote
        self._jobs: Iterator[_Job] = iter(())
        self._running_jobs: deque[_Job] = deque()

        encoded = isinstance(store, TarStore)
        crops = isinstance(store, TarStore) or resizes(
            schedule.policy, store.images.shape[1], image_size
        )
        self.graph = Graph(
            encoded, crops, channels, image_size, schedule.policy, device.type == "cuda"
        )
        self._pipeline = build(
            self.graph, self._next_inputs, schedule.rows, threads or spare_cpus(), _gpu_id(device)
        )
        self._pipeline.build()

    def _next_inputs(self) -> list[Any]:
        """Return the inputs of the next batch to DALI.

        StopIteration ends the epoch.
        """
        job = next(self._jobs)
        self._running_jobs.append(job)
        return job.inputs

    def _make_jobs(self, draws: EpochDraws, batches: list[tuple[Int64, int]]) -> Iterator[_Job]:
        for index, count in batches:
            rows = np.maximum(index, 0)  # padding rows show sample 0
            images = self._read_images(rows)
            drawn = draws[rows]
            inputs = make_inputs(self.graph, drawn, self.table.sizes[rows])
            arrays = [images, *(inputs[name] for name in self.graph.inputs[1:])]
            yield _Job(index, count, arrays, drawn)

    def _batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        batches = list(self.schedule.batches(epoch, start_step))
        if not batches:
            return

        # One copy per epoch: the loop below never waits for the host.
        indices = torch.from_numpy(np.stack([index for index, _ in batches])).to(
            self.device, non_blocking=True
        )
        self._jobs = self._make_jobs(self.schedule.draws(epoch), batches)
        with self.schedule.fetching(self._remote, epoch, start_step):
            yield from self._deliver(indices)

    def _deliver(self, indices: Tensor) -> Iterator[Batch]:
        """Yield the batches that DALI makes of `_jobs`.

        Args:
            indices: int64 [steps, B], sample ids of each batch, on the device.
        """
        try:
            self._pipeline.schedule_run()
            for index in indices:
                images = self._take_output()
                job = self._running_jobs.popleft()
                # The tensor owns what DALI exports by DLPack: later batches never
                # write there.
                self._pipeline.release_outputs()
                self._pipeline.schedule_run()
                draws = to_device(job.draws, self.device)
                images = finish(images, draws, self.schedule.policy)
                yield Batch(images, self.labels[index], index, job.count)
                del images
        finally:
            self._drain()

    def _take_output(self) -> Tensor:
        """Return the images of the batch that DALI finishes next."""
        stream = torch.cuda.current_stream(self.device) if self.graph.gpu else None
        try:
            (images,) = self._pipeline.share_outputs(stream)
        except RuntimeError as error:
            self._pipeline = None  # DALI takes no more work after an error
            raise ValueError(self._explain_error(error)) from error
        return from_dlpack(images.as_tensor())

    def _explain_error(self, error: RuntimeError) -> str:
        """Find the image that DALI could not decode.

        DALI does not name it, so decode the images of its jobs again.
        """
        from trainer_classification.data.decode import BadImageError, decode

        for job in self._running_jobs if self.graph.encoded else ():
            samples = np.maximum(job.index, 0)
            for sample, image in zip(samples.tolist(), self._read_images(samples), strict=True):
                try:
                    decode(image.tobytes())
                except BadImageError as bad:
                    name = self.table.files[sample]
                    damage = f"is damaged in its tar: {bad}"
                    return (
                        f"Image {sample} ({name}) {damage}. Prepare again with prepare.py --force."
                    )

        return f"DALI cannot make a batch of images {self._running_jobs[0].index.tolist()}: {error}"

    def _drain(self) -> None:
        """Let DALI finish the batches it has started and discard them, so that the next epoch starts clean."""
        self._jobs = iter(())
        if self._pipeline is None:
            return
        self._pipeline.schedule_run()  # reaches the end of the epoch, which `reset` requires
        while not self._pipeline.empty():
            self._pipeline.share_outputs()
            self._pipeline.release_outputs()
        self._running_jobs.clear()
        self._pipeline.reset()

    def close(self) -> None:
        """End DALI's threads, free its memory and release the memory map."""
        self._end_epoch()
        self._pipeline = None
        self._read_images = lambda _: []
        self.labels = torch.empty(0)


def _gpu_id(device: torch.device) -> int | None:
    """Return the number of the GPU, or None for the CPU."""
    if device.type != "cuda":
        return None
    return device.index if device.index is not None else torch.cuda.current_device()


def _image_reader(
    store: TarStore | ArrayStore, files: Sequence[str]
) -> Callable[[Int64], list[npt.NDArray[np.uint8]]]:
    """Return a function from sample ids to the bytes of their files, or to their pixels.

    It returns views of plain arrays, which are quicker to make than views of
    np.memmap. It raises ValueError for bytes that are not those that were written:
    an image that DALI cannot decode may end the process by a signal.

    Args:
        store: of the split.
        files: the original file of each sample, for error messages.
    """
    remote = store.remote
    if remote is not None:
        read = _image_reader(replace(store, remote=None), files)

        def fetch_and_read(samples: Int64) -> list[npt.NDArray[np.uint8]]:
            remote.require(samples)
            return read(samples)

        return fetch_and_read

    if isinstance(store, ArrayStore):
        pixels = np.asarray(store.images)
        return lambda samples: [pixels[sample] for sample in samples.tolist()]

    shards = [np.asarray(shard) for shard in store.shards]

    def read_images(samples: Int64) -> list[npt.NDArray[np.uint8]]:
        starts = store.offsets[samples]
        ends = starts + store.sizes[samples]
        ranges = zip(store.shard[samples].tolist(), starts.tolist(), ends.tolist(), strict=True)
        images = [shards[shard][start:end] for shard, start, end in ranges]
        damaged = store.find_damaged(samples, images)
        if damaged is not None:
            sample, path = damaged
            raise ValueError(
                f"Image {sample} ({files[sample]}) is damaged in {path}: its bytes are not those that were written. "
                "Prepare again with prepare.py --force."
            )
        return images

    return read_images


def open_dali(request: LoaderRequest) -> DaliLoader:
    """Open a split for DALI: the tars of a resized dataset, the array of one kept at its size.

    Raises:
        ValueError: the split or its format is missing or damaged.
    """
    load_kernels()  # for boxes, which are drawn by batch
    folder = request.folder
    manifest = request.manifest
    split = request.split
    table = open_table(folder, manifest, split)

    store: TarStore | ArrayStore
    if manifest.resized:
        store = open_split(folder, manifest, split, on_demand=True)
    else:
        store = open_array(folder, manifest, split, on_demand=True)

    return DaliLoader(
        store,
        table,
        request.schedule,
        request.image_size,
        manifest.channels,
        device=request.device,
        threads=request.threads,
    )
