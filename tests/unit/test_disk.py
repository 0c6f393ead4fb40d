"""Where prepared shards go in the cloud."""

import pytest

from trainer_classification.preparation import disk


@pytest.fixture
def disks(tmp_path, monkeypatch):
    """Folders as if each were a disk: name -> (free bytes, seconds for the probe, file system)."""

    def make(**wanted):
        folders = {name: tmp_path / name for name in wanted}
        for folder in folders.values():
            folder.mkdir()
        monkeypatch.setattr(disk.shutil, "disk_usage", lambda f: type("", (), {"free": wanted[f.name][0]}))
        monkeypatch.setattr(disk, "_seconds_to_write", lambda f: wanted[f.name][1])
        monkeypatch.setattr(disk, "_file_system", lambda f: wanted[f.name][2])
        numbers = {folder: number for number, folder in enumerate(folders.values())}
        real = type(tmp_path).stat
        monkeypatch.setattr(
            type(tmp_path), "stat", lambda f, **_: type("", (), {"st_dev": numbers[f]}) if f in numbers else real(f)
        )
        return list(folders.values())

    return make


def test_the_fastest_disk_with_room_is_taken_and_memory_never(disks):
    folders = disks(shm=(9e9, 0.01, "tmpfs"), slow=(9e9, 3.0, "nfs4"), fast=(5e9, 0.2, "ext4"), small=(1e9, 0.1, "xfs"))
    folder, reason = disk.choose_disk(folders, "mnist-28px", int(2e9))
    assert folder == folders[2] / "prepared"
    assert reason == "5.0 GB free of which it takes up to 2.0 GB, the fastest of 2 disks with room"


def test_what_is_prepared_already_is_found_wherever_it_is(disks):
    folders = disks(a=(9e9, 0.1, "ext4"), b=(9e9, 3.0, "ext4"))
    (folders[1] / "prepared/mnist-28px").mkdir(parents=True)
    assert disk.choose_disk(folders, "mnist-28px", int(2e9))[0] == folders[1] / "prepared"


def test_what_an_interrupted_run_has_begun_is_gone_on_with_though_it_takes_the_room_up(disks):
    folders = disks(a=(9e9, 0.1, "ext4"), b=(1e9, 3.0, "ext4"))
    (folders[1] / "prepared/mnist-28px.partial").mkdir(parents=True)
    assert disk.choose_disk(folders, "mnist-28px", int(2e9)) == (
        folders[1] / "prepared",
        "an interrupted run has started there",
    )
    assert disk.choose_disk(folders, "mnist-32px", int(2e9))[0] == folders[0] / "prepared"
    (folders[0] / "prepared/mnist-28px").mkdir(parents=True)
    assert (
        disk.choose_disk(folders, "mnist-28px", int(2e9))[0] == folders[0] / "prepared"
    )  # whole: nothing to go on with


def test_without_room_the_error_says_what_each_disk_has_and_what_to_do(disks):
    folders = disks(a=(1e9, 0.1, "ext4"), b=(5e8, 0.1, "overlay"))
    with pytest.raises(
        ValueError, match=r"needs about 2\.0 GB .*a 1\.0 GB free, .*b 500 MB free.*--image-size.*--prepared"
    ):
        disk.choose_disk(folders, "mnist-28px", int(2e9))


def test_folders_that_are_missing_or_lie_on_one_disk_count_once(tmp_path):
    (tmp_path / "a").mkdir()
    folders = [tmp_path / "none", tmp_path, tmp_path / "a"]
    folder, reason = disk.choose_disk(folders, "mnist-28px", 1)
    assert folder == tmp_path / "prepared"
    assert "disks" not in reason


def test_the_real_probe_and_the_real_file_system_are_read(tmp_path):
    assert 0 < disk._seconds_to_write(tmp_path) < 60
    assert disk._seconds_to_write(tmp_path / "none") == float("inf")
    assert disk._file_system(tmp_path)
    assert disk._file_system(disk.Path("/proc")) == "proc"
