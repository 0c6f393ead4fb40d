"""The names that can be measured, what each needs, and how its process opens it."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.delivery import Contestant, Expected
from harness.fork_server import nest
from harness.workload import Workload

_HERE = "harness"
_PEERS = "uv sync --extra peers"


@dataclass(frozen=True)
class Entry:
    """A contestant.

    Attributes:
        opened: "module:function" under bench: workload -> Contestant.
        modules: imported before the clock of the first batch starts; numba and what the first optimizer wants are so
            for all, in the nest.
        install: what to do where one of them is missing.
        written: "module:function" under bench: (workload, folder) writes its format once; empty: none of its own.
        reads: the contestant whose format it reads instead.
        batches: it delivers images; ceilings and the like do not all.
        partial: its last batch may be smaller, and no image is left out; others leave out those that do not fill one.
        shared: "module:function" under bench, run before any is started: what each would do when it imports.
        found: must be installed, but is not imported: of FFCV our loader takes the JPEG library alone.
    """

    opened: str
    modules: tuple[str, ...] = ()
    install: str = ""
    written: str = ""
    reads: str = ""
    batches: bool = True
    partial: bool = False
    shared: str = ""
    found: tuple[str, ...] = ()


CONTESTANTS = {
    "resident": Entry("own_loaders:resident"),
    "ffcv": Entry("own_loaders:ffcv", (), "make ffcv", found=("ffcv",)),
    "dali": Entry("own_loaders:dali", ("nvidia.dali",), "pip install nvidia-dali-cuda120"),
    "torch": Entry("own_loaders:torch", ("torchvision",), "pip install torchvision"),
    "ffcv-stock-raw": Entry(
        "vendor_defaults:ffcv_raw",
        ("ffcv",),
        "make ffcv",
        "vendor_defaults:write_ffcv_raw",
        shared="vendor_defaults:compile_dictionary",
    ),
    "ffcv-stock-jpg": Entry(
        "vendor_defaults:ffcv_jpg",
        ("ffcv",),
        "make ffcv",
        "vendor_defaults:write_ffcv_jpg",
        shared="vendor_defaults:compile_dictionary",
    ),
    "ffcv-on-stock-raw": Entry("own_loaders:ffcv_on_raw", (), "make ffcv", reads="ffcv-stock-raw", found=("ffcv",)),
    "ffcv-on-stock-jpg": Entry("own_loaders:ffcv_on_jpg", (), "make ffcv", reads="ffcv-stock-jpg", found=("ffcv",)),
    "dali-stock": Entry("vendor_defaults:dali", ("nvidia.dali.plugin.pytorch",), "pip install nvidia-dali-cuda120"),
    "webdataset": Entry(
        "other_libraries:webdataset",
        ("webdataset", "torchvision"),
        _PEERS,
        "other_libraries:write_webdataset",
        partial=True,
    ),
    "litdata": Entry("other_libraries:litdata", ("litdata", "torchvision"), _PEERS, "other_libraries:write_litdata"),
    "streaming": Entry(
        "other_libraries:streaming", ("streaming", "torchvision"), _PEERS, "other_libraries:write_streaming"
    ),
    "spdl": Entry("other_libraries:spdl", ("spdl.io", "spdl.pipeline"), _PEERS),
    "ceiling-copy": Entry("reference_rates:copy", batches=False),
    "ceiling-decode": Entry(
        "reference_rates:decode_originals", ("simplejpeg",), "pip install simplejpeg", batches=False
    ),
    "ceiling-decode-beton": Entry(
        "reference_rates:decode_beton", ("simplejpeg",), "pip install simplejpeg", batches=False
    ),
}
OURS = ("resident", "ffcv", "dali", "torch")
# Not loaders: the rungs of `ladder.py`.
RUNGS = {
    "rung-step": Entry("stages:step", batches=False),
    "rung-augment": Entry("stages:augment", ("numba",), "pip install numba", batches=False),
}
for _name in OURS:
    _modules = CONTESTANTS[_name].modules
    RUNGS[f"rung-read-{_name}"] = Entry(f"stages:read_{_name}", batches=False, found=_modules)
    RUNGS[f"rung-full-{_name}"] = Entry(f"stages:full_{_name}", _modules, batches=False)
_ALL = CONTESTANTS | RUNGS


def installed(modules: tuple[str, ...]) -> bool:
    """Whether packages can be imported; imports their parents at most."""
    try:
        return all(importlib.util.find_spec(name) is not None for name in modules)
    except ModuleNotFoundError:
        return False


def reason_left_out(name: str, workload: Workload) -> str:
    """Why this one has no row here, in a line; empty where it can run."""
    entry, resized = _ALL[name], workload.manifest.resized
    if not installed((*entry.modules, *entry.found)):
        return f"not installed: {entry.install}"
    if name.endswith("-stock-jpg") and not resized:
        return "images up to 64 px are kept raw, as FFCV's own example does"
    if name.startswith("ceiling-decode") and not workload.files[0].lower().endswith((".jpg", ".jpeg")):
        return "the original files are not JPEG"
    if name == "ceiling-decode-beton" and "beton" not in workload.manifest.formats:
        return "there is no beton"
    return ""


def write(name: str, workload: Workload) -> None:
    """Write the format that a contestant reads by its own writer, where an earlier run has not done so."""
    name = _ALL[name].reads or name
    entry, folder = _ALL[name], workload.folder(name)
    done = folder / "written"
    if not entry.written or done.is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _function(entry.written)(workload, folder)
    done.touch()


def missing(name: str, workload: Workload) -> int:
    """How many images an epoch of a contestant may leave out, by what its library does with the last batch."""
    return 0 if _ALL[name].partial else workload.count % workload.batch_size


def share(names: Sequence[str]) -> None:
    """Have the nest do once what several of these would do each when they start; does not wait for it."""
    entries = [_ALL[name] for name in names]
    for function in {entry.shared for entry in entries if entry.shared and installed(entry.modules)}:
        nest().share(f"{_HERE}.{function}")


def start(name: str, workload: dict[str, Any]) -> tuple[Callable[[], Contestant], torch.device, Expected | None]:
    """In the contestant's process: import its libraries; see `process.Server`."""
    entry, work = _ALL[name], Workload(**workload)
    function = _function(entry.opened)
    for module in entry.modules:
        importlib.import_module(module)
    expected = work.expected(missing(name, work)) if entry.batches else None
    return functools.partial(function, work), work.where, expected


def _function(path: str) -> Any:
    module, function = path.split(":")
    return getattr(importlib.import_module(f"{_HERE}.{module}"), function)


def files_of(names: Sequence[str], workload: Workload) -> list[str]:
    """All files that these may read."""
    written = [workload.folder(_ALL[name].reads or name) for name in names]
    folders = [Path(workload.prepared), *(folder for folder in dict.fromkeys(written) if folder.is_dir())]
    return [*workload.files, *(path for folder in folders for path in files_under(folder))]


def files_under(folder: Path) -> list[str]:
    """All files in a folder."""
    return [str(path) for path in folder.rglob("*") if path.is_file()]
