"""Threads of torch and loaders: planned from affinity, quota and load; torch's stay those of the run."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from trainer_classification import environment
from trainer_classification.training import idle_threads, threads
from trainer_classification.training.distributed import World
from trainer_classification.training.idle_threads import IdleThreads
from trainer_classification.training.start_checkpoint import StartCheckpoint

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _same_threads(monkeypatch):
    """Torch has its threads again after each test, and the environment says nothing of them."""
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of some CPUs, with a quota and threads of others that run."""

    def build(cpus, quota="", running=0, version=2, group="/"):
        proc = tmp_path / "proc"
        (proc / "self/task/1").mkdir(parents=True, exist_ok=True)
        (proc / "self/task/1/stat").write_text("1 (a (b) R) R 1 1\n")
        (proc / "self/task/2").mkdir(parents=True, exist_ok=True)
        (proc / "self/task/2/stat").write_text("2 (loader) S 1 1\n")
        (proc / "loadavg").write_text(f"9.00 9.00 9.00 {running + 1}/300 77\n")
        controllers = "0::" if version == 2 else "4:cpu,cpuacct:"
        (proc / "self/cgroup").write_text(f"7:memory:/other\n{controllers}{group}\n")
        folder = tmp_path / "cgroup" / ("" if version == 2 else "cpu")
        folder.mkdir(parents=True, exist_ok=True)
        if quota and version == 2:
            (folder / "cpu.max").write_text(f"{quota} 100000\n")
        elif quota:
            (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
            (folder / "cpu.cfs_period_us").write_text("100000\n")
        monkeypatch.setattr(environment, "_CGROUP", tmp_path / "cgroup")
        monkeypatch.setattr(environment, "_PROC", proc)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
        monkeypatch.setattr(os, "cpu_count", lambda: cpus)
        return folder

    return build


def plan(processes=1, computes=True):
    planned = environment.plan_threads(processes, computes)
    return planned.compute, planned.loader


@pytest.mark.parametrize("version", [1, 2])
def test_with_a_quota_of_one_and_a_half_cpus_no_thread_waits_for_a_throttled_one(machine, version):
    machine(8, 150_000, version=version)
    assert environment.cpu_quota() == 1.5
    assert environment.cpu_count() == 2  # workers do not wait for each other
    assert plan() == (1, 1)
    assert plan(computes=False) == (1, 2)


@pytest.mark.parametrize("version", [1, 2])
def test_the_least_quota_of_the_groups_above_counts(machine, version):
    folder = machine(8, 600_000, version=version, group="/pods/one/main")
    names = ["cpu.max"] if version == 2 else ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
    values = ["250000 100000"] if version == 2 else ["250000", "100000"]
    assert environment.cpu_quota() == 6
    (folder / "pods/one").mkdir(parents=True)
    for name, value in zip(names, values, strict=True):
        (folder / "pods/one" / name).write_text(value)
    assert environment.cpu_quota() == 2.5
    assert environment.cpu_count() == 3


@pytest.mark.parametrize(
    ("cpus", "running", "processes", "expected"),
    [
        (2, 0, 1, (2, 1)),
        (2, 8, 1, (2, 1)),
        (16, 0, 1, (16, 8)),
        (16, 4, 1, (16, 6)),  # 12.8 of 16 CPUs are a fair share beside 4 threads
        (16, 16, 1, (16, 4)),
        (16, 0, 4, (4, 2)),
        (16, 3, 4, (4, 2)),  # the other three processes of the run
        (2, 0, 4, (1, 1)),
    ],
)
def test_load_takes_threads_from_the_loader_alone(machine, cpus, running, processes, expected):
    machine(cpus, running=running)
    assert plan(processes) == expected


def test_prepare_takes_its_fair_share(machine):
    machine(2)
    assert environment.spare_cpus() == 2
    machine(2, running=1)
    assert environment.spare_cpus() == 1
    machine(64, running=64)
    assert environment.spare_cpus() == 32


def test_a_real_quota_is_found(monkeypatch):
    """Of a cgroup that this test makes for a process of its own."""
    root = Path("/sys/fs/cgroup/cpu")
    if not (root / "cpu.cfs_quota_us").parent.is_dir():
        pytest.skip("no cgroup of version 1 with CPUs is mounted")
    group = root / f"test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "cpu.cfs_period_us").write_text("100000")
        (group / "cpu.cfs_quota_us").write_text("150000")
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            (group / "cgroup.procs").write_text(str(os.getpid()))
            os.write(writer, str(environment.cpu_quota()).encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reader, 20) == b"1.5"
    finally:
        group.rmdir()


def start_of(kept, kind="resume", finished=False):
    meta = SimpleNamespace(cpu_threads=kept, progress=SimpleNamespace(finished=finished))
    return StartCheckpoint(kind, "", meta=meta)


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(threads, "log", lines.append)
    return lines


def fixed(start, world=None, device=CPU):
    threads.fix_threads(start, world or World(), device)
    return torch.get_num_threads()


def test_a_resumed_run_computes_with_the_threads_it_began_with(machine, said):
    machine(4)
    assert fixed(start_of(3)) == 3
    assert "Threads: 3" in said.pop()
    assert fixed(start_of(0)) == 4
    assert fixed(StartCheckpoint("new", "")) == 4
    assert fixed(start_of(3, "archive", finished=True)) == 4
    assert fixed(start_of(3), device=torch.device("cuda")) == 4
    assert not said


def test_more_threads_than_cpus_are_not_kept(machine, said):
    machine(2)
    assert fixed(start_of(3)) == 2
    assert "may differ" in said.pop()
    machine(4, 250_000)
    assert fixed(StartCheckpoint("new", "")) == 2
    assert fixed(StartCheckpoint("new", ""), World(1, 2, 1, 2)) == 1


def test_the_users_number_of_threads_counts(machine, said, monkeypatch):
    machine(4)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    torch.set_num_threads(2)
    assert fixed(start_of(3)) == 2
    assert "may differ" in said.pop()


@pytest.fixture
def waited(machine, monkeypatch):
    """IdleThreads on a quiet machine, and a function that lets a step pass with a share of waiting."""
    machine(2)
    torch.set_num_threads(2)
    now = [0.0]
    seconds = [0.0]
    monkeypatch.setattr(idle_threads.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(idle_threads, "_waited_seconds", lambda: seconds[0])
    idle = IdleThreads(CPU)

    def step(share, passed=0.5):
        now[0] += passed
        seconds[0] += share * passed
        idle()
        return idle.are_asleep

    yield step
    idle.close()


def count_teams():
    return sum(thread.name == "idle-threads" for thread in threading.enumerate())


def test_idle_threads_sleep_while_others_take_the_cpus(waited):
    assert not waited(0.05)
    assert waited(0.4)
    assert count_teams() == 1
    assert waited(0.4)
    assert count_teams() == 1
    assert [waited(0.0) for _ in range(8)] == [True] * 7 + [False]
    assert count_teams() == 0


def test_one_busy_moment_among_quiet_ones_keeps_them_asleep(waited):
    waited(0.4)
    for _ in range(3):
        assert all(waited(0.0) for _ in range(7))
        assert waited(0.2)


def test_nobody_looks_twice_within_a_moment(waited):
    assert not waited(0.9, passed=0.1)
    assert waited(0.9, passed=0.2)


def test_on_a_busy_machine_they_sleep_from_the_start(machine):
    machine(2, running=8)
    torch.set_num_threads(2)
    idle = IdleThreads(CPU)
    assert idle.are_asleep
    idle.close()
    assert not idle.are_asleep
    machine(16, running=8)
    assert not IdleThreads(CPU).are_asleep  # there is room for all


@pytest.mark.parametrize("why", ["one thread", "the user's policy", "a GPU"])
def test_nothing_happens_where_no_thread_of_ours_waits(machine, monkeypatch, why):
    machine(2, running=8)
    torch.set_num_threads(1 if why == "one thread" else 2)
    if why == "the user's policy":
        monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert not IdleThreads(torch.device("cuda" if why == "a GPU" else "cpu")).are_asleep


_SLICES = """
import os, re, sys, threading
from pathlib import Path
from trainer_classification.training.time_slices import shorten_time_slices

def slice_of(thread):
    text = Path(f"/proc/self/task/{thread}/sched").read_text()
    return int(re.search(r"se.slice *: *([0-9]+)", text)[1])

over = threading.Event()
older = threading.Thread(target=over.wait)
older.start()
os.nice(3)
shorten_time_slices()
younger = threading.Thread(target=over.wait)
younger.start()
print([slice_of(thread.native_id) for thread in threading.enumerate()], os.nice(0))
over.set()
"""


def test_time_slices_are_short_in_threads_of_before_and_after():
    """The niceness stays: the call that shortens a slice sets both."""
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if release < (6, 12) or not Path("/proc/self/sched").exists():
        pytest.skip("this kernel has no time slices to choose, or does not show them")
    shown = subprocess.run([sys.executable, "-c", _SLICES], check=True, capture_output=True, text=True)
    assert shown.stdout == "[100000, 100000, 100000] 3\n"


def test_waiting_for_a_cpu_is_seen():
    """With more threads that work than CPUs, this one has to wait."""
    if not idle_threads._SCHEDSTAT.exists():
        pytest.skip("this system does not say how long a thread waits")
    before = idle_threads._waited_seconds()
    spin = [sys.executable, "-c", "while True: pass"]
    children = [subprocess.Popen(spin) for _ in range(2 * (os.cpu_count() or 1))]
    ends = time.monotonic() + 0.3
    while time.monotonic() < ends:
        pass
    for child in children:
        child.kill()
        child.wait()
    assert idle_threads._waited_seconds() - before > 0.02
