"""Define the contract of every loader: exactly the planned batches, as uint8 NHWC, on the training device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from trainer_classification import plan as planning
from trainer_classification.arrays import Float32, Int64
from trainer_classification.data.manifest import Manifest
from trainer_classification.data.remote_images import RemoteImages
from trainer_classification.data.table import open_table
from trainer_classification.plan import EpochDraws, Plan, Policy


@dataclass
class Batch:
    """One rank's part of a global batch.

    It is valid until the next one is requested: loaders reuse their buffers.

    Attributes:
        images: uint8 [B, H, W, C], contiguous, on the training device;
            `images.permute(0, 3, 1, 2)` is channels-last.
        labels: int64 [B], on the same device.
        index: int64 [B], sample ids on the same device; -1 in padding rows, whose
            images and labels are undefined.
        count: number of real rows; they come first.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    count: int


@dataclass(frozen=True)
class BatchSchedule:
    """Which samples a rank sees in which step, and how they are augmented; the same for every engine.

    Attributes:
        plan: order and draws for training. None for evaluation: each sample once,
            in order, not augmented.
        count: samples of the split, n.
        batch_size: of the global batch.
        rank: which part of each global batch.
        world_size: number of parts.
        view: float32 [n, 4], the box of each image that evaluation shows, as
            fractions of it; None: the whole image.
        local_ranks: those of the processes of this machine; None: of this one only.
    """

    plan: Plan | None
    count: int
    batch_size: int
    rank: int = 0
    world_size: int = 1
    view: Float32 | None = None
    local_ranks: range | None = None

    @property
    def rows(self) -> int:
        """Rows of one batch of this rank, B."""
        return max(1, min(self.batch_size, self.count) // self.world_size)

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        if self.plan is not None:
            return planning.training_steps(self.count, self.batch_size)
        return -(-self.count // (self.rows * self.world_size))

    @property
    def policy(self) -> Policy:
        """The augmentation that the draws belong to."""
        if self.plan is not None:
            return self.plan.policy
        return Policy() if self.view is None else Policy(crop="resized")

    def draws(self, epoch: int) -> EpochDraws:
        """Return the draws of all n samples in an epoch; an engine asks for those of its batches."""
        if self.plan is not None:
            return self.plan.draws(epoch)
        return EpochDraws(planning.identity(self.count, self.view))

    def batches(self, epoch: int, start_step: int = 0) -> Iterator[tuple[Int64, int]]:
        """Yield (index, count) of each batch from `start_step` on.

        `index` is int64 [B], -1 in padding rows; `count` is the number of real
        rows.
        """
        for index in self.split_steps(epoch)[start_step:, self.rank]:
            yield index, int(np.count_nonzero(index >= 0))

    @contextmanager
    def fetching(
        self, remote: RemoteImages | None, epoch: int, start_step: int = 0
    ) -> Iterator[None]:
        """Fetch the images of an epoch from object storage, in its order, until the context ends.

        Args:
            remote: where they are; None: all are here.
            epoch: which.
            start_step: first step wanted.
        """
        if remote is None or remote.is_complete:
            yield
            return
        steps = self.split_steps(epoch)[start_step:]
        ranks = self.local_ranks or range(self.rank, self.rank + 1)
        with remote.fetch_ahead(steps[:, self.rank], steps[:, ranks.start : ranks.stop]):
            yield

    def split_steps(self, epoch: int) -> Int64:
        """Return the samples of every rank in every step: int64 [steps, world_size, B], -1 in padding rows."""
        if self.plan is None:
            return planning.evaluation_batches(self.count, self.batch_size, self.world_size)
        order = self.plan.order(epoch)
        return planning.training_batches(order, self.batch_size, self.world_size)


@dataclass(frozen=True)
class LoaderRequest:
    """What a loader is opened for; the argument of every engine.

    Attributes:
        folder: of the prepared dataset.
        manifest: of the prepared dataset.
        split: one of `manifest.splits`; the labels of one without labels are -1.
        plan: order and draws for training; None for evaluation.
        batch_size: of the global batch.
        image_size: side of the batches' images in px.
        device: where the batches go.
        threads: that load; 0: one for each CPU that others leave.
        rank: which part of each global batch.
        world_size: number of parts.
        eval_crop: side of the central square that evaluation shows, as a fraction
            of each image's short side; 0: the whole image. Images that are stored
            at their own size are always shown whole.
        local_ranks: parts that this machine reads; None: `rank` only.
    """

    folder: Path
    manifest: Manifest
    split: str
    plan: Plan | None
    batch_size: int
    image_size: int
    device: torch.device
    threads: int = 0
    rank: int = 0
    world_size: int = 1
    eval_crop: float = 0.0
    local_ranks: range | None = None

    @property
    def schedule(self) -> BatchSchedule:
        """Which samples this rank sees in which step."""
        count = self.manifest.splits[self.split].count
        return BatchSchedule(
            self.plan,
            count,
            self.batch_size,
            self.rank,
            self.world_size,
            self._view(),
            self.local_ranks,
        )

    def _view(self) -> Float32 | None:
        """Return the boxes that evaluation shows; None for the whole images."""
        if self.plan is not None or self.eval_crop == 0 or not self.manifest.resized:
            return None
        return planning.central_boxes(
            open_table(self.folder, self.manifest, self.split).sizes, self.eval_crop
        )


class Loader(ABC):
    """Deliver the batches of one split, for training (planned order and draws) or evaluation (in order, each once).

    An engine implements `_batches` and `close`.
    """

    def __init__(self, schedule: BatchSchedule) -> None:
        self.schedule = schedule
        self._running: Iterator[Batch] | None = None

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return self.schedule.steps

    @property
    def samples(self) -> int:
        """Samples of the split, over all ranks."""
        return self.schedule.count

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Return the batches of an epoch from `start_step` on; this ends the epoch that ran before."""
        self._end_epoch()
        self._running = self._batches(epoch, start_step)
        return self._running

    def _end_epoch(self) -> None:
        if self._running is not None:
            self._running.close()  # type: ignore[attr-defined]  # a generator: closing it frees its buffers
            self._running = None

    @abstractmethod
    def _batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        """Yield the batches; when closed early, wait for everything that still writes into the buffers."""

    @abstractmethod
    def close(self) -> None:
        """Free threads, memory and file handles. It may be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
