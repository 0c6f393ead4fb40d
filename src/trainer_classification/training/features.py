"""Compute the features of a split with a frozen network, once, and keep them beside the prepared dataset."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Self

import numpy as np
import torch
from torch import Tensor

from trainer_classification.arrays import Float32, Int64
from trainer_classification.checkpoint.model_id import model_id
from trainer_classification.console import has_live_line, live_line, log
from trainer_classification.data.table import open_table
from trainer_classification.device import map_in_threads
from trainer_classification.faster_precision import name_precision
from trainer_classification.files import write_atomically
from trainer_classification.loaders.base import Batch, Loader
from trainer_classification.models.backbone import split_head
from trainer_classification.models.catalogue import NETWORKS
from trainer_classification.training.setup import Setup
from trainer_classification.training.signals import Stopped

CPU_BATCH = 16  # the fastest of 1 to 32 on two cores
_GPU_BATCH = 256
_EVALUATION_VIEW = 0
_MIRRORED_VIEW = 1


@dataclass(frozen=True)
class Features:
    """The features of a split.

    Attributes:
        values: float32 [N, F].
        labels: int64 [N]; -1 for those without.
        seconds: that computing them took; 0.0 if they were kept.
        seconds_waiting: those of them in which the network waited for images; of
            two threads of which one waits, half.
    """

    values: Float32
    labels: Int64
    seconds: float = 0.0
    seconds_waiting: float = 0.0


class FrozenNetwork:
    """The kept network without its head, in evaluation mode and the precision of the run.

    Args:
        setup: of the run.
    """

    def __init__(self, setup: Setup) -> None:
        model = setup.step.kept_model
        head = NETWORKS[setup.recipe.model].head
        self._forward, self.head = split_head(model, setup.recipe.model)
        body = {
            name: tensor
            for name, tensor in model.state_dict().items()
            if not name.startswith(f"{head}.")
        }
        self.identity = model_id(body)
        self._setup = setup
        self.device = setup.device
        self.threads = torch.get_num_threads() if setup.device.type == "cpu" else 1

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the features of uint8 images [B, H, W, C], float32 [B, F] on their device."""
        normalized = self._setup.normalize(images)
        dtype = self._setup.dtype
        with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
            return self._forward(normalized).float()


def collect_features(
    setup: Setup, network: FrozenNetwork, split: str, received: list[int], view: int = 0
) -> Features:
    """Compute the features of every image of a split, or read those that were kept; this rank does it alone.

    Args:
        setup: of the run.
        network: without its head.
        split: of the dataset.
        received: signals, as `catch_signals` yields them.
        view: 0: as evaluation sees an image, 1: its mirror image, more: the crops
            of the training's epoch `view - 2`.

    Raises:
        Stopped: a signal arrived; what was computed so far is kept.
    """
    labels = open_table(setup.inputs.folder, setup.manifest, split).labels
    path = _path_of(setup, network, split, view)
    if path.is_file():
        log(f"Features of {split}: {len(labels):,} images, kept in {path}.")
        return _select_finished(np.load(path), labels, view)

    started = time.perf_counter()
    with (
        _Partial(path, len(labels), network.head.in_features) as unfinished,
        _open_view(setup, split, view) as loader,
    ):
        batches = loader.epoch(max(0, view - 2), unfinished.steps_done(loader))
        waiting = _Waiting(network.threads)
        for index, values in _compute(network, _copies(batches, view, waiting), waiting):
            unfinished.add(index, values)
            _show_progress(split, unfinished, time.perf_counter() - started)
            if received:
                raise Stopped(128 + received[0], None)
        complete = unfinished.finish()
    features = _select_finished(complete, labels, view)
    seconds = time.perf_counter() - started
    log(f"Features of {split}: {len(labels):,} images, {len(labels) / seconds:,.0f} img/s.")

    return dataclasses.replace(features, seconds=seconds, seconds_waiting=waiting.seconds)


def open_kept(setup: Setup, network: FrozenNetwork, split: str) -> Float32 | None:
    """Memory-map the features of a split as evaluation sees it, float32 [N, F]; None if they were not kept."""
    path = _path_of(setup, network, split, _EVALUATION_VIEW)
    return np.load(path, mmap_mode="r") if path.is_file() else None


def _select_finished(values: Float32, labels: Int64, view: int) -> Features:
    """Return the features without the images that a view of training left out: its epochs have whole batches only."""
    if view <= _MIRRORED_VIEW:
        return Features(values, labels)
    has_features = ~np.isnan(values[:, 0])
    return Features(values[has_features], labels[has_features])


class _Waiting:
    """Count the seconds in which threads of the network have no images.

    While images are made, the threads compute those of the batches before.

    Args:
        threads: of the network.
    """

    def __init__(self, threads: int) -> None:
        self.seconds = 0.0
        self._threads = threads
        self._in_work = 0
        self._lock = Lock()

    def begin_batch(self, seconds: float) -> None:
        """Count a batch that took so many seconds to make: those of the threads that have nothing left to compute."""
        with self._lock:
            idle = max(0, self._threads - self._in_work)
            self.seconds += seconds * idle / self._threads
            self._in_work += 1

    def end_batch(self) -> None:
        """Count a batch as computed."""
        with self._lock:
            self._in_work -= 1


def _copies(
    batches: Iterator[Batch], view: int, waiting: _Waiting
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield samples [B] and images [B, H, W, C] of each batch, which stay valid."""
    while True:
        started = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        images = batch.images[: batch.count]
        copied = images.flip(2) if view == _MIRRORED_VIEW else images.clone()
        index = batch.index[: batch.count].clone()
        waiting.begin_batch(time.perf_counter() - started)
        yield index, copied


def _compute(
    network: FrozenNetwork, batches: Iterator[tuple[Tensor, Tensor]], waiting: _Waiting
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield samples [B] and features [B, F] of each batch, in order."""

    def compute(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        index, images = batch
        features = network(images)
        waiting.end_batch()
        return index, features

    if network.threads == 1:
        yield from map(compute, batches)
    else:
        yield from map_in_threads(compute, batches, network.threads, network.device)


def _open_view(setup: Setup, split: str, view: int) -> Loader:
    batch_size = CPU_BATCH if setup.device.type == "cpu" else _GPU_BATCH
    if view <= _MIRRORED_VIEW:
        return setup.open_whole_split(split, batch_size)
    return setup.open_whole_training(batch_size)


def _path_of(setup: Setup, network: FrozenNetwork, split: str, view: int) -> Path:
    """Return the file of the features: its name has a hash of all that shapes them but the prepared images."""
    recipe = setup.recipe
    shaped_by: list[object] = [
        *(network.identity, setup.mean, setup.std, recipe.image_size, recipe.eval_crop, view),
        *(setup.inputs.resolved.engine.name, name_precision(setup.dtype)),
    ]
    if view > _MIRRORED_VIEW:
        shaped_by += [setup.config.seed, repr(recipe.policy)]
    key = hashlib.sha256(json.dumps(shaped_by).encode()).hexdigest()[:16]

    return setup.inputs.folder / "features" / f"{split}-{key}.npy"


class _Partial:
    """Features as they are computed, kept in a file so that an interrupted run loses none.

    Where nothing can be written beside the dataset, they are in memory only.

    Args:
        path: of the complete file, float32 [N, F]. Beside it lies a `.partial` while
            it is not complete: the number of each sample and its features, in the
            order they were computed.
        count: samples, N.
        width: features of each, F.
    """

    def __init__(self, path: Path, count: int, width: int) -> None:
        self._values = np.full((count, width), np.nan, np.float32)
        self._row = np.dtype([("sample", np.int64), ("values", np.float32, (width,))])
        self.done = 0
        self.count = count
        self._path = path
        self._rows = path.with_suffix(".partial")
        self._file: FileIO | None = None

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(exist_ok=True)
            self._file = self._rows.open("ab+", buffering=0)
        except OSError as error:
            log(f"Features cannot be kept beside the dataset: {error}.")
            return self
        self._read(self._file)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def _read(self, file: FileIO) -> None:
        """Take the rows that an interrupted run wrote."""
        file.seek(0)
        content = file.read()
        self.done = len(content) // self._row.itemsize
        rows = np.frombuffer(content, self._row, self.done)
        self._values[rows["sample"]] = rows["values"]

    def steps_done(self, loader: Loader) -> int:
        """Return how many whole batches are there already, and forget what is beyond them."""
        steps = self.done // loader.schedule.rows
        self.done = steps * loader.schedule.rows
        if self._file is not None:
            self._file.truncate(self.done * self._row.itemsize)
        return steps

    def add(self, samples: Tensor, values: Tensor) -> None:
        """Add the features of a batch, float32 [B, F]."""
        rows = np.empty(len(samples), self._row)
        rows["sample"] = samples.cpu().numpy()
        rows["values"] = values.cpu().numpy()
        self._values[rows["sample"]] = rows["values"]
        self.done += len(rows)
        if self._file is not None:
            self._file.write(rows.tobytes())

    def finish(self) -> Float32:
        """Write the complete file, and return the features, float32 [N, F]."""
        if self._file is not None:
            write_atomically(self._path, lambda file: np.save(file, self._values))
            self._rows.unlink()
        return self._values


def time_features(setup: Setup, seconds: float) -> float:
    """Return the seconds of the features of one image, by as many batches as take some seconds.

    Args:
        setup: of the run.
        seconds: that the measurement may take.
    """
    network = FrozenNetwork(setup)
    count = 0
    with _open_view(setup, "train", _EVALUATION_VIEW) as loader:
        waiting = _Waiting(network.threads)
        batches = _copies(loader.epoch(0), _EVALUATION_VIEW, waiting)
        started = time.perf_counter()
        for number, (index, _) in enumerate(_compute(network, batches, waiting)):
            if number == 0:  # allocates
                started = time.perf_counter()
                continue
            count += len(index)
            if time.perf_counter() - started > seconds:
                break

    return (time.perf_counter() - started) / max(1, count)


def _show_progress(split: str, unfinished: _Partial, seconds: float) -> None:
    if has_live_line():
        live_line(f"features of {split}  {unfinished.done:,}/{unfinished.count:,}  {seconds:.0f} s")
