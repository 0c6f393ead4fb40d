"""What an earlier run found of a dataset is recalled while it is true, and not a change longer."""

import dataclasses
import os
from pathlib import Path

import pytest

from helpers import rows, write_dataset
from trainer_classification.config import PrepareConfig, TrainConfig
from trainer_classification.data.hafnia_table import INFO
from trainer_classification.preparation import recall
from trainer_classification.preparation.inspect import inspect
from trainer_classification.preparation.pipeline import prepare, write
from trainer_classification.training import dataset as datasets
from trainer_classification.training.distributed import World


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.delenv("HAFNIA_CLOUD", raising=False)
    folder = write_dataset(tmp_path / "dataset", rows(30) + rows(9, "test", seed=200), ["a", "b", "c"])
    return PrepareConfig(dataset=str(folder), prepared=str(tmp_path / "out"), workers=1, formats="array")


def test_what_is_recalled_is_what_an_inspection_finds(config):
    assert recall.recall(config) is None
    made = prepare(config)
    info = inspect(config)
    found = recall.recall(config).at_size()
    assert (found.folder, found.manifest) == (made.folder, made.manifest)
    for name in ("name", "count", "are_photographs", "layout"):
        assert getattr(found, name) == getattr(info, name), name
    assert recall.recall(config).notes == info.source.notes != []


def grow_image(folder):
    path = folder / "data/00003.png"
    path.write_bytes(path.read_bytes() + b"0")


def touch_table(folder):
    os.utime(folder / "annotations.parquet", ns=(1, 1))


def add_table(folder):
    (folder / "annotations.jsonl").write_text("")


def rename_dataset(folder):
    info = folder / INFO
    info.write_text(info.read_text().replace('"tiny"', '"other"'))


@pytest.mark.parametrize("change", [grow_image, touch_table, add_table, rename_dataset])
def test_a_change_of_the_dataset_is_noticed(config, tmp_path, change):
    prepare(config)
    change(tmp_path / "dataset")
    assert recall.recall(config) is None


def test_another_option_is_another_dataset(config):
    prepare(config)
    for name, value in {"image_size": 20, "validation_fraction": 0.3, "task": "x"}.items():
        assert recall.recall(PrepareConfig(**vars(config) | {name: value})) is None, name


def test_a_name_leads_to_the_folder_that_it_leads_to_now(config, tmp_path, monkeypatch):
    (tmp_path / "run/.data/datasets").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "run")
    (tmp_path / "dataset").rename(".data/datasets/tiny")
    config = PrepareConfig(**vars(config) | {"dataset": "tiny"})
    prepare(config)
    assert recall.recall(config) is not None
    write_dataset(tmp_path / "run/tiny", rows(9), ["a", "b"])
    assert recall.recall(config) is None


def test_what_is_no_longer_prepared_or_cannot_be_read_is_not_recalled(config, tmp_path):
    made = prepare(config)
    (made.folder / "manifest.json").rename(tmp_path / "kept")
    assert recall.recall(config).at_size() is None
    (tmp_path / "kept").rename(made.folder / "manifest.json")
    (note,) = (tmp_path / "out").glob(".*.inspected.json")
    note.write_text(note.read_text()[:-9])
    assert recall.recall(config) is None
    assert prepare(config).manifest == made.manifest
    assert recall.recall(config).at_size().manifest == made.manifest


def test_prepare_has_nothing_to_do_only_where_the_formats_are_those_asked_for(config, capsys):
    assert not recall.tell_if_prepared(config)
    prepare(config)
    capsys.readouterr()
    assert recall.tell_if_prepared(config)
    said = capsys.readouterr().err
    assert "is prepared already in" in said
    assert "Note: 1 of 3 classes have no image: c." in said
    for options in ({"formats": "array,beton"}, {"force": True}, {"verify": True}, {"clean": True}):
        assert not recall.tell_if_prepared(PrepareConfig(**vars(config) | options)), options


def test_a_training_says_nothing_about_what_prepare_would_write(config):
    write(inspect(config), ["beton"], config, accept_existing=True)
    assert recall.recall(config) is not None
    assert not recall.tell_if_prepared(config)


def test_a_training_decides_the_same_without_an_inspection(config, monkeypatch, capsys):
    options = {"dataset": config.dataset, "prepared": config.prepared, "workers": 1, "device": "cpu"}
    folder, first = datasets.prepare_dataset(TrainConfig(**options), World())
    said = capsys.readouterr().err.splitlines()
    monkeypatch.setattr("trainer_classification.preparation.inspect.inspect", None)
    again_folder, again = datasets.prepare_dataset(TrainConfig(**options), World())
    assert again_folder == folder
    assert again.engine.name == first.engine.name == "resident"
    assert dataclasses.replace(again, engine=first.engine) == first
    repeated = capsys.readouterr().err.splitlines()
    for start in ("Note: 1 of 3 classes", "Device: ", "Start: "):
        (line,) = (line for line in said if line.startswith(start))
        assert line in repeated


def test_a_training_that_needs_another_format_inspects(config, monkeypatch):
    prepare(PrepareConfig(**vars(config) | {"formats": "beton"}))
    called = []
    monkeypatch.setattr("trainer_classification.preparation.inspect.inspect", called.append)
    options = {"dataset": config.dataset, "prepared": config.prepared, "workers": 1, "device": "cpu"}
    with pytest.raises(AttributeError):
        datasets.prepare_dataset(TrainConfig(**options), World())
    assert called


@pytest.mark.parametrize(
    ("option", "message"),
    [({"compile": "graph"}, "trains on a CPU: omit --compile"), ({"budget": "soon"}, "--budget is 'soon'")],
)
def test_what_no_dataset_makes_possible_is_refused_before_one_is_prepared(config, option, message):
    options = {"dataset": config.dataset, "prepared": config.prepared, "device": "cpu"} | option
    with pytest.raises(ValueError, match=message):
        datasets.prepare_dataset(TrainConfig(**options), World())
    assert not Path(config.prepared).exists()
