"""`--loader auto`: what is chosen from sizes, memory, device and what is installed; and what is said of it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from trainer_classification.data.manifest import Manifest, SplitInfo
from trainer_classification.loaders import registry as select

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


@pytest.mark.parametrize(
    ("below", "limit", "used", "prefix"),
    [
        ("", "memory.max", "memory.current", ""),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ],
)
def test_in_a_container_its_limit_counts_and_cached_files_are_free(tmp_path, monkeypatch, below, limit, used, prefix):
    (tmp_path / below).mkdir(exist_ok=True)
    monkeypatch.setattr(select, "_CGROUP", tmp_path)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=50 * GB))

    def free(most, taken, inactive, active):
        parts = {"anon": taken, "inactive_file": 1, f"{prefix}inactive_file": inactive, f"{prefix}active_file": active}
        (tmp_path / below / limit).write_text(f"{most}\n")
        (tmp_path / below / used).write_text(f"{taken}\n")
        (tmp_path / below / "memory.stat").write_text("".join(f"{name} {size}\n" for name, size in parts.items()))
        return select.free_memory()

    assert free(8 * GB, 7 * GB, 2 * GB, 3 * GB) == 6 * GB
    assert free(8 * GB, 4 * GB, 5 * GB, 3 * GB) == 8 * GB  # no more than the limit
    assert free(8 * GB, 9 * GB, 0, 0) == 0
    assert free(90 * GB, 10 * GB, 0, 0) == 50 * GB  # nor than the machine has
    assert free("max", 10 * GB, 0, 0) == 50 * GB


def test_without_cgroups_the_machine_alone_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(select, "_CGROUP", tmp_path)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=5 * GB))
    assert select.free_memory() == 5 * GB


@pytest.mark.parametrize(("where", "free"), [(CPU, 0), (GPU, 200 * 10**6), (GPU, 10 * GB)])
@pytest.mark.parametrize("bare", [False, True])
def test_the_host_holds_the_array_only_where_numba_is_installed(machine, monkeypatch, where, free, bare):
    machine(4 * GB, free)
    monkeypatch.setattr(select.importlib.util, "find_spec", lambda name: None if bare else name)
    opened, reason = select.resident_placement(request(["array"], count=2000, where=where))  # 154 MB
    fits = free == 10 * GB
    assert opened is (select._device_resident if bare or fits else select._host_resident)
    assert ("by torch alone: numba is not installed" in reason) == (bare and not fits)


def test_an_array_that_fits_nowhere_without_numba_says_so(machine, monkeypatch):
    machine(4 * GB, 100 * 10**6)
    monkeypatch.setattr(select.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"154 MB, does not fit in 100 MB free on the GPU.*pip install numba"):
        select.resident_placement(request(["array"], count=2000, where=GPU))


def request(formats, count=100, where=CPU):
    manifest = Manifest(
        "made", "1.0.0", "task", "", {name: {} for name in formats}, ["a"], {"train": SplitInfo(count, "dataset", [])},
        3, 160, 128, True, "WHC", [0.5] * 3, [0.5] * 3, {}, [], 0, [], {}, "0",
    )  # fmt: skip
    return select.LoaderRequest(Path("prepared"), manifest, "train", None, 8, 128, where)


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
