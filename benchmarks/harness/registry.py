"""List what can be measured: the candidates, what each needs, and how its worker opens it."""

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

from harness.delivery import Candidate, Expected
from harness.engines import OURS, install_command, required_module
from harness.fork_server import get_fork_server
from harness.workload import Workload

_PACKAGE = "harness"
_OTHER_LIBRARIES = "uv sync --extra peers"
_FFCV = "make ffcv"
_SIMPLEJPEG = "pip install simplejpeg"


@dataclass(frozen=True)
class Entry:
    """A candidate.

    Functions are named "module:function", with the module relative to the
    harness.

    Attributes:
        open: function (workload) -> Candidate, or (argument, workload) ->
            Candidate.
        argument: first argument of `open`. Empty: it has none.
        modules: imported before the clock of the first batch starts. The fork
            server has imported numba and what the first optimizer needs for all
            candidates.
        found: must be installed but is not imported. Our ffcv loader takes only
            the JPEG library of FFCV.
        install: how to install a missing module.
        write: function (workload, folder) that writes the candidate's own format
            once. Empty: it has none.
        reads: the candidate whose format it reads. Empty: its own.
        delivers: it delivers images. Reference rates and stages deliver only
            their number.
        partial: it delivers a smaller last batch. Others leave out the images
            that do not fill one.
        preload: function () that the fork server runs once for all candidates
            that name it.
    """

    open: str
    argument: str = ""
    modules: tuple[str, ...] = ()
    found: tuple[str, ...] = ()
    install: str = ""
    write: str = ""
    reads: str = ""
    delivers: bool = True
    partial: bool = False
    preload: str = ""


def _own_entry(engine: str) -> Entry:
    module = required_module(engine)
    modules = (module,) if module else ()
    install = install_command(engine)
    if engine == "ffcv":
        return Entry("own_loaders:Engine", engine, found=modules, install=install)
    return Entry("own_loaders:Engine", engine, modules=modules, install=install)


def _vendor_ffcv(mode: str) -> Entry:
    return Entry(
        "vendor_defaults:Ffcv",
        f"ffcv-vendor-{mode}",
        modules=("ffcv",),
        install=_FFCV,
        write=f"vendor_defaults:write_ffcv_{mode}",
        preload="vendor_defaults:compile_dictionary",
    )


def _ffcv_on_vendor(mode: str) -> Entry:
    row = f"ffcv-vendor-{mode}"
    return Entry("own_loaders:FfcvOverVendorBeton", row, found=("ffcv",), install=_FFCV, reads=row)


def _other_library(name: str, *modules: str, partial: bool = False) -> Entry:
    write = f"other_libraries:write_{name}"
    return Entry(
        f"other_libraries:{name}",
        modules=modules,
        install=_OTHER_LIBRARIES,
        write=write,
        partial=partial,
    )


CANDIDATES = {name: _own_entry(name) for name in OURS} | {
    "ffcv-vendor-raw": _vendor_ffcv("raw"),
    "ffcv-vendor-jpg": _vendor_ffcv("jpg"),
    "ffcv-on-vendor-raw": _ffcv_on_vendor("raw"),
    "ffcv-on-vendor-jpg": _ffcv_on_vendor("jpg"),
    "dali-vendor": Entry(
        "vendor_defaults:Dali",
        modules=("nvidia.dali.plugin.pytorch",),
        install=install_command("dali"),
    ),
    "webdataset": _other_library("webdataset", "webdataset", "torchvision", partial=True),
    "litdata": _other_library("litdata", "litdata", "torchvision"),
    "streaming": _other_library("streaming", "streaming", "torchvision"),
    "spdl": Entry(
        "other_libraries:Spdl", modules=("spdl.io", "spdl.pipeline"), install=_OTHER_LIBRARIES
    ),
    "copy": Entry("reference_rates:Copy", delivers=False),
    "decode-originals": Entry(
        "reference_rates:decode_originals",
        modules=("simplejpeg",),
        install=_SIMPLEJPEG,
        delivers=False,
    ),
    "decode-beton": Entry(
        "reference_rates:decode_beton", modules=("simplejpeg",), install=_SIMPLEJPEG, delivers=False
    ),
}
REFERENCE_RATES = ("copy", "decode-originals", "decode-beton")

# The stages of `bottleneck.py`, which are no loaders.
STAGES = {
    "stage-step": Entry("step_timing:open_cached_step", delivers=False),
    "stage-augment": Entry(
        "stages:Augment", modules=("numba",), install="pip install numba", delivers=False
    ),
}
for _name in OURS:
    _modules = CANDIDATES[_name].modules
    STAGES[f"stage-read-{_name}"] = Entry("stages:Read", _name, found=_modules, delivers=False)
    STAGES[f"stage-train-{_name}"] = Entry(
        "step_timing:open_training", _name, modules=_modules, delivers=False
    )

_ALL = CANDIDATES | STAGES


def installed(modules: tuple[str, ...]) -> bool:
    """Return True if the modules can be found.

    Imports at most their parent packages.
    """
    try:
        return all(importlib.util.find_spec(name) is not None for name in modules)
    except ModuleNotFoundError:
        return False


def find_reason_left_out(name: str, workload: Workload) -> str:
    """Return why a candidate cannot be measured here, in one line.

    Empty: it can.
    """
    entry = _ALL[name]
    if not installed((*entry.modules, *entry.found)):
        return f"not installed: {entry.install}"
    if name.endswith("-vendor-jpg") and not workload.manifest.resized:
        return "images up to 64 px are kept raw, as FFCV's own example does"
    if name.startswith("decode-") and not workload.files[0].lower().endswith((".jpg", ".jpeg")):
        return "the original files are not JPEG"
    if name == "planes" and not workload.manifest.resized:
        return "images up to 64 px are kept as RGB"
    if name == "decode-beton" and "beton" not in workload.manifest.formats:
        return "there is no beton"
    return ""


def write(name: str, workload: Workload) -> None:
    """Write the format that a candidate reads with its own writer, unless an earlier run has done so."""
    name = _ALL[name].reads or name
    entry = _ALL[name]
    folder = workload.folder(name)
    done = folder / "written"
    if not entry.write or done.is_file():
        return

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _resolve(entry.write)(workload, folder)
    done.touch()


def missing(name: str, workload: Workload) -> int:
    """Return how many images an epoch of a candidate may leave out: those that do not fill its last batch."""
    return 0 if _ALL[name].partial else workload.count % workload.batch_size


def preload(names: Sequence[str]) -> None:
    """Let the fork server do once what several candidates would do at their start.

    Does not wait for it.
    """
    entries = [_ALL[name] for name in names]
    for function in {
        entry.preload for entry in entries if entry.preload and installed(entry.modules)
    }:
        get_fork_server().preload(f"{_PACKAGE}.{function}")


def start(
    name: str, workload: dict[str, Any]
) -> tuple[Callable[[], Candidate], torch.device, Expected | None]:
    """Import the libraries of a candidate in its worker.

    See `worker.Server` for what is returned.
    """
    entry = _ALL[name]
    work = Workload(**workload)
    function = _resolve(entry.open)
    arguments = (entry.argument, work) if entry.argument else (work,)
    for module in entry.modules:
        importlib.import_module(module)
    expected = work.expected(missing(name, work)) if entry.delivers else None

    return functools.partial(function, *arguments), work.torch_device, expected


def _resolve(path: str) -> Any:
    """Return the function that "module:function" names."""
    module, function = path.split(":")
    return getattr(importlib.import_module(f"{_PACKAGE}.{module}"), function)


def list_files(names: Sequence[str], workload: Workload) -> list[str]:
    """Return all files that these candidates may read."""
    written = [workload.folder(_ALL[name].reads or name) for name in names]
    folders = [
        Path(workload.prepared),
        *(folder for folder in dict.fromkeys(written) if folder.is_dir()),
    ]
    return [*workload.files, *(path for folder in folders for path in list_folder(folder))]


def list_folder(folder: Path) -> list[str]:
    """Return all files below a folder."""
    return [str(path) for path in folder.rglob("*") if path.is_file()]
