"""A difference between two commits is found, however small, and what may differ is let through."""

import json
import shutil

import pytest
import torch
from compare_commits import compare_results, load_tensors

MANIFEST = {"root": "/one/place", "format_version": 3, "splits": {"train": {"count": 2}}, "mean": [0.25]}
EPOCHS = [
    {"epoch": 1, "loss_train": 2.25, "accuracy_validation": 0.5, "seconds": 1.5},
    {"epoch": 2, "loss_train": float("nan"), "accuracy_validation": 0.75, "seconds": 1.5},
]
WEIGHTS = {"meta": "{}", "state": {"model": {"a.weight": torch.tensor([0.0, 1.0]), "b.steps": torch.tensor(3)}}}
PREPARED = "prepare/mnist/mnist-28px"


@pytest.fixture
def base(tmp_path):
    """Results as the tool keeps them: one prepared dataset and one training."""
    folder = tmp_path / "base"
    array = folder / PREPARED / "array/train.images.bin"
    array.parent.mkdir(parents=True)
    array.write_bytes(bytes(1000))
    (folder / PREPARED / "manifest.json").write_text(json.dumps(MANIFEST))

    run = folder / "train/run"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in EPOCHS))
    (run / "summary.json").write_text(json.dumps({"loss_test": 2.5, "seconds_total": 9.5}))
    torch.save(WEIGHTS, run / "model.pth")
    return folder


@pytest.fixture
def head(base, tmp_path):
    return shutil.copytree(base, tmp_path / "head")


def differences(base, head, *ignored):
    return [f"{row.what} | {row.difference}" for row in compare_results(base, head, ignored) if row.difference]


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_equal_results_have_one_row_for_each_part(base, head):
    rows = compare_results(base, head)
    assert [row.difference for row in rows] == [""] * 5
    assert rows[0].what == "prepare mnist: array, 1 files, 1,000 bytes"


def test_one_byte_of_a_shard_is_found(base, head):
    content = bytearray(1000)
    content[777] = 1
    (head / PREPARED / "array/train.images.bin").write_bytes(content)
    assert differences(base, head) == [
        "prepare mnist: array, 1 files, 1,000 bytes | array/train.images.bin: byte 777 differs,"
        " 1,000 bytes before and 1,000 now"
    ]


def test_a_shard_that_is_cut_short_is_found(base, head):
    (head / PREPARED / "array/train.images.bin").write_bytes(bytes(999))
    assert "byte 999 differs, 1,000 bytes before and 999 now" in differences(base, head)[0]


def test_a_missing_and_a_new_file_are_found(base, head):
    (head / PREPARED / "array/train.images.bin").rename(head / PREPARED / "array/new.bin")
    assert differences(base, head)[0].endswith("| array/new.bin: is new")
    assert differences(head, base)[0].endswith("| array/new.bin: is missing")
    assert differences(base, head, "array/new.bin")[0].endswith("| array/train.images.bin: is missing")


def test_a_manifest_may_name_another_folder_and_nothing_else(base, head):
    manifest = head / PREPARED / "manifest.json"
    replace(manifest, "/one/place", "/another")
    assert differences(base, head) == []
    replace(manifest, '"count": 2', '"count": 3')
    assert differences(base, head)[0].endswith("| manifest.json: splits.train.count: 2 before and 3 now")


def test_names_in_a_manifest_are_ignored_on_request(base, head):
    replace(head / PREPARED / "manifest.json", '"format_version": 3', '"format_version": 4, "added": 1')
    assert len(differences(base, head)) == 1
    assert differences(base, head, "format_version")[0].endswith("| manifest.json: added is new")
    assert differences(base, head, "format_version", "added") == []


def test_the_last_digit_of_a_loss_is_found(base, head):
    replace(head / "train/run/metrics.jsonl", "2.25", "2.2500000000000004")
    assert differences(base, head) == [
        "train run: metrics.jsonl | line 1.loss_train: 2.25 before and 2.2500000000000004 now"
    ]


def test_a_missing_epoch_and_a_missing_figure_are_found(base, head):
    metrics = head / "train/run/metrics.jsonl"
    metrics.write_text(metrics.read_text().splitlines()[0])
    assert differences(base, head) == ["train run: metrics.jsonl | 2 lines before and 1 now"]
    replace(head / "train/run/summary.json", "loss_test", "test_error")
    assert differences(base, head)[1] == "train run: summary.json | line 1.loss_test is missing"


def test_times_and_new_figures_may_differ(base, head):
    replace(head / "train/run/metrics.jsonl", '"seconds": 1.5', '"seconds": 2.5, "loss_new": 1')
    replace(head / "train/run/summary.json", "9.5", "8.5")
    assert differences(base, head) == []


@pytest.mark.parametrize(
    ("value", "difference"),
    [
        (torch.tensor([0.0, 1.0000001]), "a.weight: values differ by up to 1.19e-07"),
        (torch.tensor([-0.0, 1.0]), "a.weight: values differ by up to 0"),
        (torch.tensor([0.0, 1.0], dtype=torch.float64), "a.weight: torch.float32 [2] before and torch.float64 [2] now"),
        (torch.tensor([[0.0, 1.0]]), "a.weight: torch.float32 [2] before and torch.float32 [1, 2] now"),
    ],
)
def test_a_bit_of_a_weight_is_found(base, head, value, difference):
    model = WEIGHTS["state"]["model"] | {"a.weight": value}
    torch.save({"state": {"model": model}}, head / "train/run/model.pth")
    assert differences(base, head) == [f"train run: model.pth | {difference}"]


def test_a_missing_weight_is_found(base, head):
    torch.save({"a.weight": torch.tensor([0.0, 1.0]), "c": torch.tensor(3)}, head / "train/run/model.pth")
    assert differences(base, head) == ["train run: model.pth | b.steps is missing, 2 in all"]


def test_weights_may_lie_deeper_in_their_file(tmp_path):
    torch.save(WEIGHTS, tmp_path / "one.pth")
    torch.save({"weights": WEIGHTS["state"]["model"]}, tmp_path / "other.pth")
    assert list(load_tensors(tmp_path / "one.pth")) == ["a.weight", "b.steps"]
    assert list(load_tensors(tmp_path / "other.pth")) == ["a.weight", "b.steps"]


def test_a_script_that_fails_is_a_difference(base, head):
    shutil.rmtree(head / "train/run")
    assert differences(base, head) == ["train run | was not run"]
    (head / "train/run").mkdir()
    (head / "train/run/failed.txt").write_text("exit code 2")
    assert differences(base, head) == ["train run | fails: exit code 2"]


def test_a_run_that_writes_no_weights_is_a_difference(base, head):
    (head / "train/run/model.pth").unlink()
    assert differences(base, head) == ["train run: model.pth | is missing"]
