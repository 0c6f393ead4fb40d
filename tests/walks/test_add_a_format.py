"""Follow "Adding a format" of docs/engines.md with a toy, and see that each step is needed."""

import dataclasses

import numpy as np
import pytest
import toy_npy
from toy_write_npy import NPY

from helpers import encoded, noise, rows, tree, write_dataset
from trainer_classification import config as options
from trainer_classification.config import PrepareConfig
from trainer_classification.data.array import open_array
from trainer_classification.preparation import job
from trainer_classification.preparation.formats import FORMATS
from trainer_classification.preparation.pipeline import prepare


@pytest.fixture
def register(monkeypatch):
    """Steps 3 and 4: the line in `preparation/formats.py` and the value in `config.py`."""
    monkeypatch.setattr(job, "IMAGES_PER_JOB", 7)
    monkeypatch.delenv("HAFNIA_CLOUD", raising=False)

    def steps(line=NPY, value="npy"):
        if line is not None:
            monkeypatch.setitem(FORMATS, "npy", line)
        if value:
            monkeypatch.setattr(options, "FORMATS", (*options.FORMATS, value))

    return steps


def make_dataset(folder, side):
    data = rows(30) + rows(8, "validation", seed=100) + rows(9, "test", seed=200)
    for number, row in enumerate(data):
        row |= {"data": encoded(noise(number, side, side, 3)), "width": side, "height": side}
    data[4]["data"] = b"no image"
    return write_dataset(folder, data, ["a", "b"])


def run(tmp_path, **more):
    settings = {"dataset": str(tmp_path / "dataset"), "prepared": str(tmp_path / "out"), "workers": 1} | more
    return prepare(PrepareConfig(on_bad_image="skip", **settings))


@pytest.mark.parametrize("side", [12, 90])  # kept at their size and copied from parts; resized and written in place
def test_a_format_added_by_the_walk_is_prepared_verified_and_read(tmp_path, register, side):
    register()
    make_dataset(tmp_path / "dataset", side)
    made = run(tmp_path, formats="array,beton,tar,npy", image_size=0 if side == 12 else 32)
    assert made.manifest.formats["npy"] == {"made_for": made.manifest.train_size}
    for split in made.manifest.splits:
        images = FORMATS["npy"].open(made.folder, made.manifest, split)
        np.testing.assert_array_equal(images, open_array(made.folder, made.manifest, split).images)
        text = (made.folder / f"npy/{split}.brightest.txt").read_text()
        assert int(text) == images.max()
    run(tmp_path, verify=True, image_size=0 if side == 12 else 32)


def test_it_is_added_to_formats_that_are_there(tmp_path, register):
    register()
    make_dataset(tmp_path / "dataset", 12)
    before = run(tmp_path, formats="tar")
    assert list(run(tmp_path, formats="tar,npy").manifest.formats) == ["npy", "tar"]
    assert before.manifest.formats.keys() == {"tar"}


@pytest.mark.parametrize("side", [12, 90])
def test_a_killed_run_continues(tmp_path, register, monkeypatch, side):
    register()
    make_dataset(tmp_path / "dataset", side)
    whole = tree(run(tmp_path, formats="npy", image_size=32, prepared=str(tmp_path / "whole")).folder)
    real, done = job.run_job, []

    def killed(one):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(one)
        real(one)

    monkeypatch.setattr(job, "run_job", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, formats="npy", image_size=32)
    again = []
    monkeypatch.setattr(job, "run_job", lambda one: again.append(one) or real(one))
    assert tree(run(tmp_path, formats="npy", image_size=32).folder) == whole
    assert len(done) + len(again) == 7


def test_without_the_value_of_the_option_it_is_refused(tmp_path, register):
    register(value="")
    with pytest.raises(ValueError, match="--formats has 'npy'"):
        run(tmp_path, formats="npy")


def test_without_the_line_in_the_registry_it_is_refused(tmp_path, register):
    register(line=None)
    make_dataset(tmp_path / "dataset", 12)
    with pytest.raises(ValueError, match="There is no format 'npy', only array, beton, tar"):
        run(tmp_path, formats="npy")


@pytest.mark.parametrize("step", ["open", "extents", "encode", "write", "room", "layout"])
def test_without_a_function_there_is_no_format(step):
    given = {field.name: getattr(NPY, field.name) for field in dataclasses.fields(NPY) if field.name != step}
    with pytest.raises(TypeError, match=f"'{step}'"):
        type(NPY)(**given)


def test_a_reader_that_looks_elsewhere_than_the_writer_is_found_out(tmp_path, register):
    def shifted(shards):
        (right,) = toy_npy.extents(shards)
        return [dataclasses.replace(right, offsets=right.offsets - 1)]

    register(dataclasses.replace(NPY, extents=shifted))
    make_dataset(tmp_path / "dataset", 12)
    with pytest.raises(OSError, match=r"npy/train\.npy differs from what was written, at .*data/00000\.png"):
        run(tmp_path, formats="npy")


def test_registry_and_option_name_the_same_formats():
    assert tuple(FORMATS) == options.FORMATS
    assert set(FORMATS) - {"planes"} == set(PrepareConfig.formats.split(","))  # which is for little memory
