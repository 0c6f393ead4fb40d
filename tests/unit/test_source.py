"""Finding datasets and reading their tables."""

import numpy as np
import polars as pl
import pytest

from helpers import TASK, encoded, noise, rows, write_dataset
from trainer_classification.data import source
from trainer_classification.data.source import find_dataset, read_folder


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HAFNIA_CLOUD", "HAFNIA_API_KEY", "HAFNIA_PLATFORM_URL", "MDI_CONFIG_PATH"):
        monkeypatch.delenv(name, raising=False)


def test_labels_go_by_class_name_in_the_order_of_the_class_list(tmp_path):
    found = read_folder(write_dataset(tmp_path / "d", rows(6, classes="ba"), ["a", "b"]))
    assert found.labels.tolist() == [1, 0] * 3
    assert found.class_names == ["a", "b"]


def test_an_index_that_disagrees_with_the_name_is_an_error_that_names_the_image(tmp_path):
    data = rows(3)
    data[1]["idx"] = 0
    with pytest.raises(ValueError, match=r"data/00001.png has the class 'b' but the index 0.*has index 1"):
        read_folder(write_dataset(tmp_path / "d", data, ["a", "b"]))


def test_a_class_that_is_not_in_the_list_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="'b', which is not in the list"):
        read_folder(write_dataset(tmp_path / "d", rows(3), ["a", "c"]))


def test_unlabelled_rows_are_kept_as_splits_of_their_own_and_empty_classes_noted(tmp_path):
    data = rows(2, label=None) + rows(4, seed=3)
    data += rows(1, "test", seed=9, label=None) + rows(1, "x", seed=12, label=None)
    found = read_folder(write_dataset(tmp_path / "d", data, ["a", "b", "c"]))
    assert found.splits.tolist() == ["train_unlabeled"] * 2 + ["train"] * 4 + ["test_unlabeled"]
    assert found.labels.tolist() == [-1, -1, 0, 1, 0, 1, -1]
    assert found.unlabelled == 4
    assert any("train_unlabeled (2), test_unlabeled (1)" in note for note in found.notes)
    assert any("The test split has no labels" in note for note in found.notes)
    assert any("split x are left out" in note for note in found.notes)
    assert any("1 of 3 classes have no image: c" in note for note in found.notes)


def test_val_is_validation_and_other_splits_are_left_out_with_a_note(tmp_path):
    data = rows(2) + rows(2, "val", seed=5) + rows(2, "UNDEFINED", seed=8)
    found = read_folder(write_dataset(tmp_path / "d", data, ["a", "b"]))
    assert found.splits.tolist() == ["train"] * 2 + ["validation"] * 2
    assert any("UNDEFINED" in note for note in found.notes)


def two_tasks():
    return [
        {"primitive": "Classification", "classes": [{"name": "a"}, {"name": "b"}], "name": name}
        for name in ("weather", "image_classification")
    ] + [{"primitive": "Bbox", "classes": [{"name": "car"}], "name": "boxes"}]


def test_several_tasks_have_to_be_chosen_from(tmp_path):
    folder = write_dataset(tmp_path / "d", rows(4), ["a", "b"], tasks=two_tasks())
    with pytest.raises(ValueError, match="--task: weather, image_classification"):
        read_folder(folder)
    with pytest.raises(ValueError, match="no classification task 'boxes'; it has: weather"):
        read_folder(folder, "boxes")
    assert len(read_folder(folder, "image_classification").files) == 4


def test_a_dataset_for_other_tasks_says_what_it_has(tmp_path):
    folder = write_dataset(tmp_path / "d", rows(2), ["a", "b"], tasks=two_tasks()[2:])
    with pytest.raises(ValueError, match=r"no classification task; it has: boxes \(Bbox\)"):
        read_folder(folder)


def test_a_dataset_without_any_label_says_so(tmp_path):
    with pytest.raises(ValueError, match="no labelled images"):
        read_folder(write_dataset(tmp_path / "d", rows(2, label=None), ["a"]))


def test_the_mounted_dataset_comes_first_in_the_cloud(tmp_path, monkeypatch):
    mounted = write_dataset(tmp_path / "mounted", rows(4), ["a", "b"], name="hidden")
    monkeypatch.setenv("HAFNIA_CLOUD", "true")
    monkeypatch.setenv("MDI_DATASET_DIR", str(mounted))
    assert find_dataset("mnist").name == "hidden"


def test_a_downloaded_dataset_comes_before_the_sample(tmp_path):
    write_dataset(tmp_path / ".data/datasets/mnist", rows(4), ["a", "b"], name="mnist")
    assert len(find_dataset("mnist").files) == 4


def test_the_bundled_sample_comes_last_and_is_said_to_be_one(monkeypatch):
    def offline(load, task):
        raise source._NotThereError("no network")

    monkeypatch.setattr(source, "_through_sdk", offline)
    found = find_dataset("mnist")
    assert len(found.files) == 7000
    assert any("small bundled sample" in note for note in found.notes)


def test_what_is_not_found_anywhere_says_what_was_tried_and_what_to_do():
    with pytest.raises(ValueError, match=r"no dataset 'nowhere'. Tried .data/datasets/nowhere.*hafnia configure"):
        find_dataset("nowhere")
    with pytest.raises(ValueError, match="no folder"):
        find_dataset("./nowhere")


def test_a_plain_image_folder_is_read(tmp_path):
    for number in range(4):
        folder = tmp_path / "plain" / ("train", "test")[number % 2] / ("cat", "dog")[number // 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(encoded(noise(number, channels=3)))
    found = find_dataset(str(tmp_path / "plain"))
    assert found.class_names == ["cat", "dog"]
    assert sorted(zip(found.splits.tolist(), found.labels.tolist(), strict=True)) == [
        ("test", 0),
        ("test", 1),
        ("train", 0),
        ("train", 1),
    ]


def test_a_folder_that_is_no_dataset_says_what_one_looks_like(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"neither dataset_info\.json nor folders"):
        read_folder(tmp_path / "empty")


def test_labels_take_four_bytes_each(tmp_path):
    assert read_folder(write_dataset(tmp_path / "d", rows(2), ["a", "b"])).labels.dtype == np.int32


def test_a_prediction_that_lies_in_the_dataset_is_no_label(tmp_path):
    folder = write_dataset(tmp_path / "d", rows(3), ["a", "b"])
    table = pl.read_parquet(folder / "annotations.parquet")
    labels = [
        [{"class_name": name, "class_idx": "ab".index(name), "task_name": TASK, "ground_truth": t} for name, t in row]
        for row in ([("b", False), ("a", True)], [("b", True)], [("a", False)])
    ]
    table.with_columns(pl.Series("classifications", labels)).write_parquet(folder / "annotations.parquet")
    found = read_folder(folder)
    assert found.labels.tolist() == [0, 1, -1]
    assert found.splits.tolist() == ["train", "train", "train_unlabeled"]


def test_a_dataset_with_predictions_alone_has_no_labels(tmp_path):
    folder = write_dataset(tmp_path / "d", rows(2), ["a", "b"])
    table = pl.read_parquet(folder / "annotations.parquet")
    label = [{"class_name": "a", "class_idx": 0, "task_name": TASK, "ground_truth": False}]
    table.with_columns(pl.Series("classifications", [label, label])).write_parquet(folder / "annotations.parquet")
    with pytest.raises(ValueError, match="no labelled images"):
        read_folder(folder)
