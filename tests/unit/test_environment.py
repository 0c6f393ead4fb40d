"""Memory as the machine and its container grant it."""

import getpass
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
