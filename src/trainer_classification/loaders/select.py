"""`--loader auto`: which engine delivers the batches, and why."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer_classification.config import cpu_count
from trainer_classification.data.array import open_array, paths
from trainer_classification.data.manifest import Manifest
from trainer_classification.loaders.base import Loader, Share
from trainer_classification.plan import Plan

# What a training may fill beside the split: a ResNet-50 with AMP at a batch of 128 takes most of a T4's 16 GB.
_SHARE_OF_DEVICE = 0.4


@dataclass(frozen=True)
class Request:
    """What a loader is wanted for; the arguments of every engine.

    Attributes:
        folder, manifest: the prepared dataset.
        split: "train", "validation" or "test".
        plan: order and draws for training; None for evaluation.
        batch_size: global batch.
        image_size: side in px of the batches.
        device: where they go.
        threads: that load; 0: one for each CPU.
        rank, world_size: which slice of each global batch.
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

    @property
    def share(self) -> Share:
        """Which samples this rank sees in which step."""
        count = self.manifest.splits[self.split].count
        return Share(self.plan, count, self.batch_size, self.rank, self.world_size)


def open_loader(
    folder: Path,
    manifest: Manifest,
    split: str,
    *,
    loader: str,
    plan: Plan | None,
    batch_size: int,
    image_size: int,
    device: torch.device,
    threads: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> tuple[Loader, str]:
    """Open the loader of a split, and say in one line which engine it is and why.

    Raises:
        ValueError: the split is missing or its files are damaged.
    """
    threads = threads or max(1, cpu_count() // world_size)
    request = Request(folder, manifest, split, plan, batch_size, image_size, device, threads, rank, world_size)
    assert loader in ("auto", "resident")
    open_engine, reason = resident_placement(request)
    return open_engine(request), reason


def resident_placement(request: Request) -> tuple[Callable[[Request], Loader], str]:
    """Device placement where the split fits beside the model, else host placement; and why."""
    need = request.manifest.files[paths(request.split)[0]].bytes
    if request.device.type == "cuda":
        free = torch.cuda.mem_get_info(request.device)[0]
        if need <= _SHARE_OF_DEVICE * free:
            return _device_resident, f"resident on the GPU: {_mb(need)} of {_mb(free)} free"
        return _host_resident, f"resident on the host: {_mb(need)} do not fit beside the model in {_mb(free)} free"
    if importlib.util.find_spec("numba") is None:
        return _device_resident, f"resident, {_mb(need)}, by torch alone: numba is not installed"
    return _host_resident, f"resident on the host: {_mb(need)}, memory-mapped"


def _device_resident(request: Request) -> Loader:
    from trainer_classification.loaders.resident import DeviceResident

    store = open_array(request.folder, request.manifest, request.split)
    return DeviceResident(store, request.share, request.image_size, request.device)


def _host_resident(request: Request) -> Loader:
    from trainer_classification.loaders.resident import HostResident

    store = open_array(request.folder, request.manifest, request.split)
    return HostResident(store, request.share, request.image_size, request.device, request.threads)


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
