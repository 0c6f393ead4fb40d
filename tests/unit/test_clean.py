"""`prepare.py --clean` deletes what prepare made and nobody needs, and nothing else."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from helpers import encoded, noise, rows, tree, write_dataset
from trainer_classification.config import PrepareConfig
from trainer_classification.data import in_use
from trainer_classification.preparation import partial
from trainer_classification.preparation.clean import clean
from trainer_classification.preparation.inspect import inspect
from trainer_classification.preparation.pipeline import prepare


@pytest.fixture(autouse=True)
def _not_in_the_cloud(monkeypatch):
    monkeypatch.delenv("HAFNIA_CLOUD", raising=False)


def config(tmp_path, dataset="dataset", **options):
    return PrepareConfig(
        dataset=str(tmp_path / dataset), prepared=str(tmp_path / "out"), formats="array", workers=1, **options
    )


@pytest.fixture
def outdated(tmp_path):
    """The folders of a dataset as it was prepared before and after a file of it changed."""
    write_dataset(tmp_path / "dataset", rows(20), ["a", "b"])
    before = prepare(config(tmp_path)).folder
    (tmp_path / "dataset/data/00003.png").write_bytes(encoded(noise(77, channels=3)))
    after = prepare(config(tmp_path)).folder
    assert before != after
    return before, after


def test_what_older_files_and_other_options_made_is_deleted(tmp_path, outdated, capsys):
    before, after = outdated
    other_size = prepare(config(tmp_path, image_size=8)).folder
    kept = tree(after)

    deleted = clean(config(tmp_path))

    assert sorted(deleted) == sorted([before, other_size])
    assert [path for path in (tmp_path / "out").iterdir() if path.is_dir()] == [after]
    assert tree(after) == kept
    assert "Deleted 2 of 2 folders" in capsys.readouterr().err
    assert clean(config(tmp_path)) == []


def test_what_is_not_of_this_dataset_or_not_made_by_prepare_stays(tmp_path, outdated):
    """Of the same name: another dataset, a folder of the user's with and without a manifest's name, a link."""
    before, after = outdated
    write_dataset(tmp_path / "elsewhere", rows(20, seed=50), ["a", "b"])
    other = prepare(config(tmp_path, "elsewhere")).folder
    users = tmp_path / "out/tiny-12px-mine"
    users.mkdir()
    (users / "manifest.json").write_text('{"dataset": "tiny"}')
    moved = before.rename(tmp_path / "precious")
    before.symlink_to(moved)

    assert clean(config(tmp_path)) == []
    assert all((folder / "manifest.json").is_file() for folder in (after, other, users, moved))


def test_what_is_for_another_task_of_the_dataset_stays(tmp_path):
    """The files of both are the same, and so is the place."""
    classes = [{"name": "a"}, {"name": "b"}]
    tasks = [{"primitive": "Classification", "classes": classes, "name": name} for name in ("kind", "color")]
    data = rows(20, task="kind") + rows(20, task="color", seed=50)
    write_dataset(tmp_path / "dataset", data, ["a", "b"], tasks=tasks)
    made = {name: prepare(config(tmp_path, task=name)).folder for name in ("kind", "color")}
    assert made["kind"] != made["color"]

    assert clean(config(tmp_path, task="kind")) == []
    assert clean(config(tmp_path, task="kind", image_size=8)) == [made["kind"]]
    assert (made["color"] / "manifest.json").is_file()


def test_what_a_run_reads_or_a_process_prepares_stays(tmp_path, outdated, capsys):
    before, _ = outdated
    with in_use.hold(before):
        assert clean(config(tmp_path)) == []
    with partial.lock(before):
        assert clean(config(tmp_path)) == []
    said = capsys.readouterr().err
    assert f"{before} stays: a run in progress reads it" in said
    assert f"{before} stays: another process is preparing it" in said
    assert clean(config(tmp_path)) == [before]


def test_unfinished_work_stays_only_for_the_options_that_are_needed(tmp_path):
    write_dataset(tmp_path / "dataset", rows(20), ["a", "b"])
    purpose = {"dataset": "tiny", "root": str(tmp_path / "dataset"), "task": "image_classification"}
    needed, other = (inspect(config(tmp_path, image_size=size)).folder for size in (0, 8))
    for target in (needed, other):
        target.parent.mkdir(exist_ok=True)
        partial.claim(partial.partial_folder(target), target, purpose)

    assert clean(config(tmp_path)) == [partial.partial_folder(other)]
    assert partial.partial_folder(needed).is_dir()


def test_the_marker_of_unfinished_work_tells_its_dataset(tmp_path, monkeypatch):
    write_dataset(tmp_path / "dataset", rows(20), ["a", "b"])

    def refuse(*_):
        raise OSError("as if the disk were full")

    with monkeypatch.context() as patch:
        patch.setattr(partial, "publish", refuse)
        with pytest.raises(OSError, match="as if"):
            prepare(config(tmp_path, image_size=8))
    (folder,) = (tmp_path / "out").glob("*.partial")
    (folder / "manifest.json").unlink()
    assert clean(config(tmp_path)) == [folder]


def test_what_a_killed_clean_has_left_is_not_read_and_deleted_by_the_next(tmp_path, outdated, monkeypatch):
    before, _ = outdated

    def interrupt(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", interrupt)
        with pytest.raises(KeyboardInterrupt):
            clean(config(tmp_path))
    assert not before.exists()
    assert clean(config(tmp_path)) == [before.with_name(f"{before.name}.old")]
    assert len([path for path in (tmp_path / "out").iterdir() if path.is_dir()]) == 1


def test_the_command_only_deletes(tmp_path, outdated):
    before, after = outdated
    (tmp_path / "dataset/data/00004.png").write_bytes(encoded(noise(78, channels=3)))
    spec = importlib.util.spec_from_file_location("prepare_script", Path(__file__).parents[2] / "scripts/prepare.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    script.main(config(tmp_path, clean=True))

    assert not before.exists()
    assert not after.exists()
    assert list((tmp_path / "out").glob("*/manifest.json")) == []
