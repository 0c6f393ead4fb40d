"""Register the engines that deliver batches, choose one of them once for a run, and open it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch

from trainer_classification.data.formats import ArrayLayout
from trainer_classification.environment import free_memory
from trainer_classification.loaders.base import Loader, LoaderRequest

Placement = Literal["", "device", "host"]

# Fraction of free GPU memory the dataset may use; the rest is for training. A
# ResNet-50 with AMP and a batch of 128 takes most of the 16 GB of a T4.
_DEVICE_FRACTION = 0.4
# Fraction of free host memory. The array is memory-mapped: what exceeds the
# memory is read from disk in each epoch.
_HOST_FRACTION = 0.7

_PACKAGE = "trainer_classification.loaders"


@dataclass(frozen=True)
class EngineSpec:
    """An engine.

    Attributes:
        name: as `--loader` has it.
        module: must be importable; "": nothing beside torch and numpy.
        install: how to install that module, for messages.
        formats: (images are resized) -> formats the engine reads.
        openers: placement -> "module:function", imported when it is needed; ""
            for an engine without placement.
    """

    name: str
    module: str
    install: str
    formats: Callable[[bool], tuple[str, ...]]
    openers: Mapping[Placement, str]


ENGINES: dict[str, EngineSpec] = {
    engine.name: engine
    for engine in (
        EngineSpec(
            name="resident",
            module="",
            install="",
            formats=lambda resized: ("array",),
            openers={
                "device": f"{_PACKAGE}.resident:open_device_resident",
                "host": f"{_PACKAGE}.resident:open_host_resident",
            },
        ),
        EngineSpec(
            name="planes",
            module="",
            install="",
            formats=lambda resized: ("planes",) if resized else ("array",),
            openers={
                "device": f"{_PACKAGE}.resident:open_device_planes",
                "host": f"{_PACKAGE}.resident:open_host_planes",
            },
        ),
        EngineSpec(
            name="ffcv",
            module="ffcv",
            install="apt-get install libturbojpeg0-dev libopencv-dev pkg-config g++, then make ffcv",
            formats=lambda resized: ("beton",),
            openers={"": f"{_PACKAGE}.ffcv:open_ffcv"},
        ),
        EngineSpec(
            name="dali",
            module="nvidia.dali",
            install="pip install nvidia-dali-cuda120 (Linux on x86-64 only)",
            formats=lambda resized: ("tar",) if resized else ("array",),
            openers={"": f"{_PACKAGE}.dali:open_dali"},
        ),
        EngineSpec(
            name="torch",
            module="torchvision",
            install="pip install torchvision==0.25.*",
            formats=lambda resized: (),  # it reads the original files
            openers={"": f"{_PACKAGE}.torch_dataloader:open_torch"},
        ),
    )
}


@dataclass(frozen=True)
class EngineChoice:
    """The engine of a run, for all of its splits.

    Attributes:
        name: of the engine.
        placement: "device" or "host" where the resident engine keeps the array, or
            the planes engine the planes; "" for the others.
        reason: one line for the user, with the engine's name.
    """

    name: str
    placement: Placement
    reason: str

    def formats(self, resized: bool) -> tuple[str, ...]:
        """Return the formats that must be prepared for it."""
        return ENGINES[self.name].formats(resized)


def choose_engine(
    loader: str,
    layout: ArrayLayout,
    count: int,
    device: torch.device,
    prepared: Collection[str] | None = None,
) -> EngineChoice:
    """Choose the engine of a run; free memory is looked at here and nowhere else.

    Args:
        loader: name of an engine, or "auto", as `--loader`.
        layout: of the images in the array.
        count: images of all splits together.
        device: that trains.
        prepared: the only formats that can be had. None: what is missing will be
            prepared.

    Raises:
        ValueError: the engine is not installed, no installed engine reads the
            prepared formats, or the array fits nowhere.
    """
    array_bytes = count * layout.image_bytes
    stored = {"resident": array_bytes, "planes": layout.planes_bytes(count) or array_bytes}
    if loader != "auto":
        require_installed(loader)
        name = loader
        reason = f"--loader {loader}"
    elif prepared is None:
        name, reason = _fastest(stored, device)
    else:
        name, reason = _fastest_prepared(stored, device, layout.resized, prepared)

    if name not in stored:
        return EngineChoice(name, "", f"{name}: {reason}")
    placement, where = _place(name, stored[name], device)

    return EngineChoice(name, placement, f"{where} ({reason})")


def open_loader(choice: EngineChoice, request: LoaderRequest) -> Loader:
    """Open the loader of a split with the chosen engine.

    Raises:
        ValueError: the split or its format is missing or damaged.
    """
    module, function = ENGINES[choice.name].openers[choice.placement].split(":")
    opener = getattr(importlib.import_module(module), function)
    return cast(Loader, opener(request))


def installed(name: str) -> bool:
    """Return True if the module an engine needs can be found; imports nothing but its parent package."""
    return _is_importable(ENGINES[name].module)


def require_installed(name: str) -> None:
    """Raise ValueError with the way to install it if an engine is missing."""
    if not installed(name):
        raise ValueError(f"--loader {name} is not installed: {ENGINES[name].install}.")


def _is_importable(module: str) -> bool:
    try:
        return not module or importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False


def _fastest(stored: Mapping[str, int], device: torch.device) -> tuple[str, str]:
    """Return the fastest installed engine, and the reason.

    Args:
        stored: bytes that the resident and the planes engine would keep.
        device: that trains.
    """
    size = _megabytes(stored["resident"])
    if device.type == "cuda":
        free = _free_device_memory(device)
        for name in _fitting(stored, _DEVICE_FRACTION * free):
            return name, f"auto: {_explain_fit(name, stored)} on the GPU"

    free = free_memory()
    for name in _fitting(stored, _HOST_FRACTION * free):
        where = f"in {_megabytes(free)} of free memory"
        return name, f"auto: {_explain_fit(name, stored)} {where}"

    streaming = "dali" if device.type == "cuda" else "ffcv"
    too_large = f"the array, {size}, exceeds {_megabytes(free)} of free memory"
    if installed(streaming):
        return streaming, f"auto: {too_large}"
    return (
        "resident",
        f"auto: {too_large} and is read from disk, because {streaming} is not installed",
    )


def _fitting(stored: Mapping[str, int], room: float) -> list[str]:
    """Return the engines whose images fit, the fastest first."""
    return [name for name in ("resident", "planes") if stored[name] <= room]


def _explain_fit(name: str, stored: Mapping[str, int]) -> str:
    array = f"the array, {_megabytes(stored['resident'])}"
    if name == "resident":
        return f"{array}, fits"
    return f"{array}, does not fit, its planes, {_megabytes(stored[name])}, do"


def _fastest_prepared(
    stored: Mapping[str, int], device: torch.device, resized: bool, prepared: Collection[str]
) -> tuple[str, str]:
    """Return the fastest installed engine whose formats are prepared, and the reason.

    Raises:
        ValueError: there is none.
    """
    best, reason = _fastest(stored, device)
    for name in dict.fromkeys((best, "resident", "planes", "ffcv", "dali")):
        if installed(name) and set(ENGINES[name].formats(resized)) <= set(prepared):
            return name, reason if name == best else "auto: its format is the one that is prepared"
    raise ValueError(
        f"The prepared dataset has the formats {', '.join(prepared)}, which no installed loader reads: "
        f"python scripts/prepare.py --formats array adds the one that the resident loader reads."
    )


def _place(name: str, stored_bytes: int, device: torch.device) -> tuple[Placement, str]:
    """Choose where the resident or the planes engine keeps its images, and say so.

    On the GPU if they fit beside the model, else on the host. Augmentation on the
    host needs numba; without it, they are used through torch only, on the device
    that trains.

    Raises:
        ValueError: they fit nowhere.
    """
    size = _megabytes(stored_bytes)
    has_numba = _is_importable("numba")
    if device.type != "cuda":
        if has_numba:
            return "host", f"{name} on the host: {size}, memory-mapped"
        return "device", f"{name}, {size}, with torch only: numba is not installed"

    free = _free_device_memory(device)
    if stored_bytes <= _DEVICE_FRACTION * free:
        return "device", f"{name} on the GPU: {size} of {_megabytes(free)} free"
    if has_numba:
        return (
            "host",
            f"{name} on the host: {size} do not fit beside the model in {_megabytes(free)} free",
        )
    if stored_bytes <= free:
        return "device", f"{name}, {size}, with torch only: numba is not installed"
    raise ValueError(
        f"The array, {size}, does not fit in {_megabytes(free)} free on the GPU, and without numba it cannot be "
        f"read from the host: pip install numba, or train at a smaller --image-size."
    )


def _free_device_memory(device: torch.device) -> int:
    return int(torch.cuda.mem_get_info(device)[0])


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
