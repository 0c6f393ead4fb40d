"""The protocol of Caltech-101: N images of each class train, all others test."""

import numpy as np
import pytest

from harness import caltech_protocol as protocol
from harness import long_tail
from helpers import encoded, noise, rows, write_dataset
from trainer_classification.data.source import read_folder


@pytest.fixture
def source(tmp_path):
    sizes = {"ant": 4, "bee": 7, "cat": 5}
    rows = [{"data": encoded(noise(0)), "label": name, "split": "train"} for name in sizes for _ in range(sizes[name])]
    rows[0]["split"] = "test"
    return read_folder(write_dataset(tmp_path / "tiny", rows, list(sizes)))


def test_every_class_trains_on_as_many_and_the_rest_is_tested(source, tmp_path):
    written = read_folder(protocol.write(source, 3, 0, tmp_path))
    assert written.paths == source.paths
    assert written.labels.tolist() == source.labels.tolist()
    assert (written.name, written.class_names) == (source.name, source.class_names)
    assert np.bincount(written.labels[written.splits == "train"]).tolist() == [3, 3, 3]
    assert np.bincount(written.labels[written.splits == "test"]).tolist() == [1, 4, 2]


def test_another_seed_draws_others(source, tmp_path):
    splits = [read_folder(protocol.write(source, 3, seed, tmp_path)).splits.tolist() for seed in (0, 1, 0)]
    assert splits[0] != splits[1]
    assert splits[0] == splits[2]


def test_a_class_too_small_to_test_is_an_error(source, tmp_path):
    with pytest.raises(ValueError, match=r"--per-class 4: the class ant has only 4 images"):
        protocol.write(source, 4, 0, tmp_path)


def test_a_long_tail_falls_geometrically_and_leaves_the_test_images(tmp_path):
    names = list("abcd")
    images = rows(4 * 40, classes="abcd") + rows(20, "test", classes="abcd", seed=500)
    source = read_folder(write_dataset(tmp_path / "whole", images, names))
    cut = read_folder(long_tail.write(source, 10, 3, 0, tmp_path))
    assert cut.class_names == names[:3]
    is_train = cut.splits == "train"
    assert np.bincount(cut.labels[is_train]).tolist() == [40, 13, 4]
    assert np.bincount(cut.labels[~is_train]).tolist() == [5, 5, 5]
    alone = read_folder(write_dataset(tmp_path / "alone", rows(4 * 40, classes="abcd"), names))
    rest = read_folder(long_tail.write(alone, 10, 3, 0, tmp_path / "rest"))
    assert np.bincount(rest.labels[rest.splits == "test"]).tolist() == [0, 27, 36]
    again = long_tail.write(source, 10, 3, 0, tmp_path / "again")
    assert sorted(read_folder(again).paths) == sorted(cut.paths)
