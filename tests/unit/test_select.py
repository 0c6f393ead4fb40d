"""The choice of the engine from sizes, memory, device and what is installed; and what is said of it."""

from types import SimpleNamespace

import pytest
import torch

from trainer_classification.loaders import registry
from trainer_classification.loaders.registry import ENGINES, choose_engine

CPU = torch.device("cpu")
GPU = torch.device("cuda")
GB = 10**9
SIZE = 154 * 10**6  # bytes of an array
REAL = registry._is_importable


@pytest.fixture
def machine(monkeypatch):
    """Sets free host and device memory, and the modules that are installed."""

    def set_up(host, device=0, installed=("ffcv", "nvidia.dali", "torchvision", "numba")):
        monkeypatch.setattr(registry, "free_memory", lambda: host)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (device, device))
        monkeypatch.setattr(registry, "_is_importable", lambda module: not module or module in installed)

    return set_up


def choose(loader, size, where, prepared=None, planes=None):
    """Choose for a dataset of so many bytes in the array, and in planes."""
    layout = SimpleNamespace(resized=True, image_bytes=size, planes_bytes=lambda count: planes)
    return choose_engine(loader, layout, 1, where, prepared)


@pytest.mark.parametrize(
    ("size", "host", "device", "where", "engine", "placement", "reason"),
    [
        (1 * GB, 4 * GB, 0, CPU, "resident", "host", "fits in 4,000 MB of free memory"),
        (4 * GB, 4 * GB, 0, CPU, "ffcv", "", "exceeds 4,000 MB of free memory"),
        (4 * GB, 1 * GB, 16 * GB, GPU, "resident", "device", "fits on the GPU"),
        (8 * GB, 32 * GB, 16 * GB, GPU, "resident", "host", "fits in 32,000 MB of free memory"),
        (8 * GB, 8 * GB, 16 * GB, GPU, "dali", "", "exceeds 8,000 MB of free memory"),
    ],
)
def test_auto_takes_what_fits_and_says_why(machine, size, host, device, where, engine, placement, reason):
    machine(host, device)
    choice = choose("auto", size, where)
    assert (choice.name, choice.placement) == (engine, placement)
    assert reason in choice.reason


@pytest.mark.parametrize(
    ("size", "planes", "host", "device", "where", "engine", "placement", "reason"),
    [
        (
            4 * GB,
            2 * GB,
            4 * GB,
            0,
            CPU,
            "planes",
            "host",
            "does not fit, its planes, 2,000 MB, do in 4,000 MB of free",
        ),
        (4 * GB, None, 4 * GB, 0, CPU, "ffcv", "", "exceeds 4,000 MB of free memory"),
        (8 * GB, 4 * GB, 4 * GB, 0, CPU, "ffcv", "", "exceeds 4,000 MB of free memory"),
        (
            8 * GB,
            4 * GB,
            32 * GB,
            16 * GB,
            GPU,
            "planes",
            "device",
            "does not fit, its planes, 4,000 MB, do on the GPU",
        ),
        (16 * GB, 8 * GB, 32 * GB, 16 * GB, GPU, "resident", "host", "fits in 32,000 MB of free memory"),
        (1 * GB, GB // 2, 4 * GB, 0, CPU, "resident", "host", "fits in 4,000 MB of free memory"),
    ],
)
def test_auto_takes_planes_where_the_array_would_not_fit(
    machine, size, planes, host, device, where, engine, placement, reason
):
    machine(host, device)
    choice = choose("auto", size, where, planes=planes)
    assert (choice.name, choice.placement) == (engine, placement)
    assert reason in choice.reason


def test_planes_that_are_prepared_alone_are_taken(machine):
    machine(8 * GB)
    choice = choose("auto", GB, CPU, ["planes", "tar"], planes=GB // 2)
    assert (choice.name, choice.placement) == ("planes", "host")
    assert choice.reason == "planes on the host: 500 MB, memory-mapped (auto: its format is the one that is prepared)"


def test_auto_stays_resident_where_the_better_engine_is_not_installed(machine):
    machine(1 * GB, installed=("numba",))
    choice = choose("auto", 4 * GB, CPU)
    assert choice.name == "resident"
    assert "ffcv is not installed" in choice.reason


def test_each_engine_needs_its_own_formats_only(machine):
    machine(1 * GB)
    names = ("auto", "resident", "planes", "ffcv", "dali", "torch")
    assert {name: choose(name, 10, CPU).formats(resized=True) for name in names} == {
        "auto": ("array",),
        "resident": ("array",),
        "planes": ("planes",),
        "ffcv": ("beton",),
        "dali": ("tar",),
        "torch": (),
    }
    assert ENGINES["dali"].formats(False) == ("array",)
    assert ENGINES["planes"].formats(False) == ("array",)
    assert choose("auto", 10 * GB, CPU).formats(resized=True) == ("beton",)


@pytest.mark.parametrize(("engine", "command"), [("ffcv", "make ffcv"), ("dali", "nvidia-dali-cuda120")])
def test_an_engine_that_is_not_installed_says_how_to_install_it(machine, engine, command):
    machine(GB, installed=())
    with pytest.raises(ValueError, match=f"--loader {engine} is not installed: .*{command}"):
        choose(engine, 10, CPU)


def test_a_module_is_found_without_its_parent_package():
    assert REAL("torch.nn")
    assert not REAL("no_such_package.module")
    assert REAL("")


@pytest.mark.parametrize(("where", "free"), [(CPU, 0), (GPU, 200 * 10**6), (GPU, 10 * GB)])
@pytest.mark.parametrize("bare", [False, True])
def test_the_host_holds_the_array_only_where_numba_is_installed(machine, where, free, bare):
    machine(4 * GB, free, installed=() if bare else ("numba",))
    choice = choose("resident", SIZE, where)
    fits = free == 10 * GB
    assert choice.placement == ("device" if bare or fits else "host")
    assert ("with torch only: numba is not installed" in choice.reason) == (bare and not fits)


def test_an_array_that_fits_nowhere_without_numba_says_so(machine):
    machine(4 * GB, 100 * 10**6, installed=())
    with pytest.raises(ValueError, match=r"154 MB, does not fit in 100 MB free on the GPU.*pip install numba"):
        choose("resident", SIZE, GPU)


def test_auto_takes_another_engine_where_only_its_format_is_prepared(machine):
    machine(4 * GB)
    assert choose("auto", SIZE, CPU, ["array", "beton", "tar"]).name == "resident"
    choice = choose("auto", SIZE, CPU, ["beton"])
    assert (choice.name, choice.reason) == ("ffcv", "ffcv: auto: its format is the one that is prepared")
    machine(4 * GB, installed=("nvidia.dali",))
    assert choose("auto", SIZE, CPU, ["beton", "tar"]).name == "dali"


def test_auto_says_what_to_prepare_where_nothing_installed_reads_what_is_there(machine):
    machine(4 * GB, installed=())
    with pytest.raises(ValueError, match=r"formats beton, tar, .*prepare\.py --formats array"):
        choose("auto", SIZE, CPU, ["beton", "tar"])


@pytest.mark.parametrize("engine", ENGINES.values(), ids=lambda engine: engine.name)
def test_each_opener_names_a_function_of_its_file(engine):
    import ast
    from pathlib import Path

    for opener in engine.openers.values():
        module, function = opener.split(":")
        file = Path(registry.__file__).parent / (module.rpartition(".")[2] + ".py")
        names = [node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
        assert function in names
