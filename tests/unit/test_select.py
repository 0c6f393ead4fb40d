"""`--loader auto`: what is chosen from sizes, memory, device and what is installed; and what is said of it."""

from pathlib import Path

import pytest
import torch

from trainer_classification.data.manifest import Manifest, SplitInfo
from trainer_classification.loaders import select

CPU, GPU = torch.device("cpu"), torch.device("cuda")
GB = 10**9


@pytest.fixture
def machine(monkeypatch):
    """Sets free host and device memory and the engines that are installed."""

    def set_up(host, device=0, installed=("ffcv", "dali", "torch")):
        monkeypatch.setattr(select, "free_memory", lambda: host)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (device, device))
        monkeypatch.setattr(select, "installed", lambda engine: engine == "resident" or engine in installed)

    return set_up


@pytest.mark.parametrize(
    ("size", "host", "device", "where", "engine", "reason"),
    [
        (1 * GB, 4 * GB, 0, CPU, "resident", "fits in 4,000 MB of free memory"),
        (4 * GB, 4 * GB, 0, CPU, "ffcv", "would exceed 4,000 MB of free memory"),
        (4 * GB, 1 * GB, 16 * GB, GPU, "resident", "fits on the GPU"),
        (8 * GB, 32 * GB, 16 * GB, GPU, "resident", "fits in 32,000 MB of free memory"),
        (8 * GB, 8 * GB, 16 * GB, GPU, "dali", "would exceed 8,000 MB of free memory"),
    ],
)
def test_auto_takes_what_fits_and_says_why(machine, size, host, device, where, engine, reason):
    machine(host, device)
    chosen, text = select.automatic(size, where)
    assert chosen == engine
    assert reason in text


def test_auto_stays_resident_where_the_better_engine_is_not_installed(machine):
    machine(1 * GB, installed=())
    chosen, text = select.automatic(4 * GB, CPU)
    assert chosen == "resident"
    assert "ffcv is not installed" in text


def test_each_loader_asks_for_its_format_alone(machine):
    machine(1 * GB)
    needed = {name: select.formats_needed(name, CPU) for name in ("auto", "resident", "ffcv", "dali", "torch")}
    assert {name: ask(True, 10) for name, ask in needed.items()} == {
        "auto": ("array",),
        "resident": ("array",),
        "ffcv": ("beton",),
        "dali": ("tar",),
        "torch": (),
    }
    assert needed["dali"](False, 10) == ("array",)
    assert needed["auto"](True, 10 * GB) == ("beton",)


@pytest.mark.parametrize(("engine", "command"), [("ffcv", "make ffcv"), ("dali", "nvidia-dali-cuda120")])
def test_an_engine_that_is_not_installed_says_how_to_install_it(machine, engine, command):
    machine(GB, installed=())
    with pytest.raises(ValueError, match=f"--loader {engine} is not installed: .*{command}"):
        select.require_installed(engine)


def request(formats, count=100, where=CPU):
    manifest = Manifest(
        "made", "1.0.0", "task", "", {name: {} for name in formats}, ["a"], {"train": SplitInfo(count, "dataset", [])},
        3, 160, 128, True, "WHC", [0.5] * 3, [0.5] * 3, {}, [], 0, [], {}, "0",
    )  # fmt: skip
    return select.Request(Path("prepared"), manifest, "train", None, 8, 128, where)


def test_auto_takes_another_engine_where_only_its_format_is_prepared(machine):
    machine(4 * GB)
    assert select._among_prepared(request(["array", "beton", "tar"]))[0] == "resident"
    assert select._among_prepared(request(["beton"])) == ("ffcv", "ffcv: its format is the one prepared")
    machine(4 * GB, installed=("dali",))
    assert select._among_prepared(request(["beton", "tar"]))[0] == "dali"


def test_auto_says_what_to_prepare_where_nothing_installed_reads_what_is_there(machine):
    machine(4 * GB, installed=())
    with pytest.raises(ValueError, match=r"holds beton, tar, .*prepare\.py --dataset made --formats array"):
        select._among_prepared(request(["beton", "tar"]))
