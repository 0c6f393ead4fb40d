"""Which engine delivers the batches, what it needs prepared, and why."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch

from trainer_classification.data.array import open_array
from trainer_classification.data.manifest import Manifest
from trainer_classification.environment import cpu_count
from trainer_classification.loaders.base import Loader, LoaderRequest
from trainer_classification.plan import Plan

# What a training may fill beside the split: a ResNet-50 with AMP at a batch of 128 takes most of a T4's 16 GB.
_SHARE_OF_DEVICE = 0.4
# Of the memory that is free now; the array is memory-mapped, so what exceeds it is read from disk again and again.
_SHARE_OF_HOST = 0.7

INSTALL = {
    "ffcv": "apt-get install libturbojpeg0-dev libopencv-dev pkg-config g++, then make ffcv",
    "dali": "pip install nvidia-dali-cuda120 (Linux on x86-64 alone)",
    "torch": "pip install torchvision==0.25.*",
}
_CGROUP = Path("/sys/fs/cgroup")
# Of the two versions of cgroups: folder, limit, use, and what precedes the names of a use's parts.
_LIMITS = (
    ("", "memory.max", "memory.current", ""),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
)
_MODULES = {"ffcv": "ffcv", "dali": "nvidia.dali", "torch": "torchvision"}


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
        ValueError: the engine is not installed, or the split or its format is missing or damaged.
    """
    threads = threads or max(1, cpu_count() // world_size)
    request = LoaderRequest(folder, manifest, split, plan, batch_size, image_size, device, threads, rank, world_size)
    engine, reason = (loader, f"{loader}: --loader {loader}") if loader != "auto" else _among_prepared(request)
    if engine == "resident":
        open_engine, reason = resident_placement(request)
        return open_engine(request), reason
    require_installed(engine)
    return _OPEN[engine](request), reason


def formats_needed(loader: str, device: torch.device) -> Callable[[bool, int], tuple[str, ...]]:
    """What to prepare for a loader: (images are resized, bytes of the array) -> formats."""

    def needed(resized: bool, array_bytes: int) -> tuple[str, ...]:
        engine = automatic(array_bytes, device)[0] if loader == "auto" else loader
        return _needs(engine, resized)

    return needed


def _needs(engine: str, resized: bool) -> tuple[str, ...]:
    return {"resident": ("array",), "ffcv": ("beton",), "dali": ("tar" if resized else "array",), "torch": ()}[engine]


def automatic(array_bytes: int, device: torch.device) -> tuple[str, str]:
    """The engine for a split of this size, and why."""
    size, fallback = _mb(array_bytes), "dali" if device.type == "cuda" else "ffcv"
    if device.type == "cuda" and array_bytes <= _SHARE_OF_DEVICE * torch.cuda.mem_get_info(device)[0]:
        return "resident", f"resident: the array, {size}, fits on the GPU"
    free = free_memory()
    if array_bytes <= _SHARE_OF_HOST * free:
        return "resident", f"resident: the array, {size}, fits in {_mb(free)} of free memory"
    if not installed(fallback):
        return "resident", f"resident, from disk: {size} exceed {_mb(free)} of free memory; {fallback} is not installed"
    return fallback, f"{fallback}: the array, {size}, would exceed {_mb(free)} of free memory"


def _among_prepared(request: LoaderRequest) -> tuple[str, str]:
    """As `automatic`, of the engines whose format is prepared."""
    manifest = request.manifest
    array_bytes = manifest.splits[request.split].count * manifest.image_size**2 * manifest.channels
    best, reason = automatic(array_bytes, request.device)
    ready = [
        engine
        for engine in dict.fromkeys((best, "resident", "ffcv", "dali"))
        if set(_needs(engine, manifest.resized)) <= manifest.formats.keys() and installed(engine)
    ]
    if not ready:
        raise ValueError(
            f"{request.folder} holds {', '.join(manifest.formats)}, which no installed loader reads: "
            f"python scripts/prepare.py --dataset {manifest.dataset} --formats array adds what the resident one needs."
        )
    return (best, reason) if ready[0] == best else (ready[0], f"{ready[0]}: its format is the one prepared")


def installed(engine: str) -> bool:
    """Whether the packages of an engine are there; imports none of them."""
    name = _MODULES.get(engine, "")
    try:
        return not name or importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def require_installed(engine: str) -> None:
    """Raise ValueError, which says how to install it, where an engine is missing."""
    if not installed(engine):
        raise ValueError(f"--loader {engine} is not installed: {INSTALL[engine]}.")


def free_memory() -> int:
    """Bytes of host memory that can be had without swapping; within a container its own limit counts."""
    try:
        import psutil
    except ModuleNotFoundError:  # a bare machine
        return 1 << 62
    return min(int(psutil.virtual_memory().available), *(_free_in_container(*names) for names in _LIMITS))


def _free_in_container(name: str, limit: str, used: str, prefix: str) -> int:
    """Bytes up to the limit of one version of cgroups; what memory keeps of files can be dropped, so that is free."""
    folder = _CGROUP / name
    try:
        most, taken = int((folder / limit).read_text()), int((folder / used).read_text())
        parts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # another version, or "max"
        return 1 << 62
    files = sum(int(parts.get(f"{prefix}{kind}_file", 0)) for kind in ("inactive", "active"))
    return max(0, min(most, most - taken + files))


def resident_placement(request: LoaderRequest) -> tuple[Callable[[LoaderRequest], Loader], str]:
    """Device placement where the split fits beside the model, else host placement, which needs numba; and why.

    Raises:
        ValueError: it can be placed nowhere.
    """
    manifest = request.manifest
    need = manifest.splits[request.split].count * manifest.image_size**2 * manifest.channels
    bare = importlib.util.find_spec("numba") is None
    if request.device.type == "cuda":
        free = torch.cuda.mem_get_info(request.device)[0]
        if need <= _SHARE_OF_DEVICE * free:
            return _device_resident, f"resident on the GPU: {_mb(need)} of {_mb(free)} free"
        if not bare:
            return _host_resident, f"resident on the host: {_mb(need)} do not fit beside the model in {_mb(free)} free"
        if need > free:
            raise ValueError(
                f"The array, {_mb(need)}, does not fit in {_mb(free)} free on the GPU, and without numba it cannot be "
                f"read from the host: pip install numba, or train at a smaller --resize."
            )
    elif not bare:
        return _host_resident, f"resident on the host: {_mb(need)}, memory-mapped"
    return _device_resident, f"resident, {_mb(need)}, by torch alone: numba is not installed"


def _device_resident(request: LoaderRequest) -> Loader:
    from trainer_classification.loaders.resident import DeviceResident

    store = open_array(request.folder, request.manifest, request.split)
    return DeviceResident(store, request.schedule, request.image_size, request.device)


def _host_resident(request: LoaderRequest) -> Loader:
    from trainer_classification.loaders.resident import HostResident

    store = open_array(request.folder, request.manifest, request.split)
    return HostResident(store, request.schedule, request.image_size, request.device, request.threads)


def _ffcv(request: LoaderRequest) -> Loader:
    from trainer_classification.loaders.ffcv import open_ffcv

    return open_ffcv(request)


def _dali(request: LoaderRequest) -> Loader:
    from trainer_classification.loaders.dali import open_dali

    return open_dali(request)


def _torch(request: LoaderRequest) -> Loader:
    from trainer_classification.loaders.torch_dataloader import open_torch

    return open_torch(request)


_OPEN = {"ffcv": _ffcv, "dali": _dali, "torch": _torch}


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
