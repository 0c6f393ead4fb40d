"""Memory as the machine and its container grant it."""

import getpass
import math
import os
import pwd
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from trainer_classification import environment

GB = 10**9


@pytest.mark.parametrize("files", environment._CGROUP_VERSIONS, ids=["v2", "v1"])
def test_in_a_container_its_limit_counts_and_cached_files_are_free(tmp_path, monkeypatch, files):
    folder = tmp_path / files.folder
    folder.mkdir(exist_ok=True)
    monkeypatch.setattr(environment, "_CGROUP", tmp_path)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=50 * GB))

    def free(limit, used, inactive, active):
        stat = {
            "anon": used,
            "inactive_file": 1,
            f"{files.prefix}inactive_file": inactive,
            f"{files.prefix}active_file": active,
        }
        (folder / files.limit).write_text(f"{limit}\n")
        (folder / files.usage).write_text(f"{used}\n")
        (folder / "memory.stat").write_text("".join(f"{name} {size}\n" for name, size in stat.items()))
        return environment.free_memory()

    assert free(8 * GB, 7 * GB, 2 * GB, 3 * GB) == 6 * GB
    assert free(8 * GB, 4 * GB, 5 * GB, 3 * GB) == 8 * GB  # no more than the limit
    assert free(8 * GB, 9 * GB, 0, 0) == 0
    assert free(90 * GB, 10 * GB, 0, 0) == 50 * GB  # nor than the machine has
    assert free("max", 10 * GB, 0, 0) == 50 * GB


def test_without_cgroups_the_machine_alone_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "_CGROUP", tmp_path)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=5 * GB))
    assert environment.free_memory() == 5 * GB


def test_all_memory_is_the_machines_or_the_containers_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "_CGROUP", tmp_path)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert environment.total_memory() == machine
    (tmp_path / "memory.max").write_text("max\n")
    assert environment.total_memory() == machine
    (tmp_path / "memory.max").write_text("1000000\n")
    assert environment.total_memory() == 1000000


def limit_cpus(folder, version, quota, period=100_000):
    (folder / "cpu").mkdir(exist_ok=True)
    if version == 2:
        (folder / "cpu.max").write_text(f"{quota} {period}\n")
    else:
        (folder / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
        (folder / "cpu/cpu.cfs_period_us").write_text(f"{period}\n")


@pytest.mark.parametrize(("version", "none"), [(2, "max"), (1, -1)])
def test_a_containers_quota_limits_the_cpus(tmp_path, monkeypatch, version, none):
    monkeypatch.setattr(environment, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert (environment.cpu_quota(), environment.cpu_count()) == (math.inf, 8)
    for quota, period, expected in [(150_000, 100_000, 1.5), (20_000, 50_000, 0.4), (1_600_000, 100_000, 16)]:
        limit_cpus(tmp_path, version, quota, period)
        assert environment.cpu_quota() == expected
        assert environment.cpu_count() == min(8, math.ceil(expected))
    limit_cpus(tmp_path, version, none)
    assert environment.cpu_count() == 8


@pytest.mark.parametrize(
    ("others", "quota", "given", "adapts", "expected"),
    [
        (0, "max", None, False, None),
        (5, "max", None, False, "PASSIVE"),
        (5, "max", None, True, None),
        (0, 150_000, None, True, "PASSIVE"),
        (0, 900_000, None, False, None),
        (5, 150_000, "ACTIVE", False, "ACTIVE"),
    ],
)
def test_threads_wait_passively_where_the_cpus_are_shared(
    tmp_path, monkeypatch, others, quota, given, adapts, expected
):
    monkeypatch.setattr(environment, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(2)))
    monkeypatch.setattr(environment, "other_threads", lambda: others)
    monkeypatch.setattr(os, "environ", {"OMP_WAIT_POLICY": given} if given else {})
    limit_cpus(tmp_path, 2, quota)
    environment.wait_passively_on_shared_cpus(adapts)
    assert os.environ.get("OMP_WAIT_POLICY") == expected


def test_a_user_id_without_a_name_or_a_home_gets_both(monkeypatch):
    def getpwuid(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("USER", "LOGNAME", "LNAME", "USERNAME", "HOME"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    environment.name_user()
    assert getpass.getuser() == f"uid{os.getuid()}"
    assert Path.home() == Path(tempfile.gettempdir())
