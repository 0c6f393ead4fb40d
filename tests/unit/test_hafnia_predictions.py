"""What the platform reads of predictions is complete, or is not there."""

from pathlib import Path

import pytest
from hafnia.dataset.hafnia_dataset import HafniaDataset

from helpers import rows, write_dataset
from trainer_classification.outputs.hafnia_predictions import write_with_predictions


@pytest.fixture
def dataset(tmp_path):
    return HafniaDataset.from_path(write_dataset(tmp_path / "d", rows(3), ["a", "b"]))


def write(dataset, folder):
    predictions = [("a", 0.5), None, ("b", 0.75)]
    write_with_predictions(dataset, "t", ["b", "a"], predictions, folder, origin={"model": "m"})


def test_rows_keep_their_labels_and_get_a_prediction_where_there_is_one(dataset, tmp_path):
    write(dataset, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "annotations.jsonl",
        "annotations.parquet",
        "dataset_info.json",
    ]
    found = HafniaDataset.from_path(tmp_path / "out", check_for_images=False)
    assert found.info.meta == {"predictions": {"model": "m"}}
    assert dataset.info.meta is None
    entries = found.samples["classifications"].to_list()
    assert [entry["class_name"] for row in entries for entry in row if entry["ground_truth"]] == ["a", "b", "a"]
    predicted = [(row[1]["class_name"], row[1]["class_idx"], row[1]["confidence"]) for row in entries if len(row) > 1]
    assert predicted == [("a", 1, 0.5), ("b", 0, 0.75)]


def test_what_was_stopped_while_it_was_written_is_not_there(dataset, tmp_path, monkeypatch):
    def stop(self, folder):
        (folder / "dataset_info.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(HafniaDataset, "write_annotations", stop)
    with pytest.raises(KeyboardInterrupt):
        write(dataset, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_file_that_makes_it_a_dataset_comes_last_also_over_an_older_one(dataset, tmp_path, monkeypatch):
    write(dataset, tmp_path / "out")
    replace = Path.replace

    def check(source, target):
        assert not (tmp_path / "out/dataset_info.json").exists()
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", check)
    write(dataset, tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 3
