"""Trackers beside Hafnia's get all figures, and what they lack or break ends no run."""

import csv
import math

import pytest

from trainer_classification.outputs import trackers, tracking
from trainer_classification.outputs.trackers import check_tracker
from trainer_classification.outputs.tracking import NullTracker, Tracker

HISTORY = [
    {"epoch": 1, "loss_train": 0.5, "accuracy_validation": 0.75},
    {"epoch": 2, "loss_train": 0.25, "accuracy_validation": None},
]


@pytest.fixture
def opened(tmp_path, monkeypatch):
    monkeypatch.delenv("HAFNIA_CLOUD", raising=False)
    monkeypatch.setattr(tracking, "_create_logger", lambda *_: None)
    return lambda tracker: Tracker("p", tmp_path, "", tracker)


def test_tensorboard_reads_what_was_tracked(opened):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = opened("tensorboard")
    tracker.configuration({"batch_size": 16})
    for step in range(3):
        tracker.scalar("train/loss", 1 / (step + 1), step)
    tracker.epochs(HISTORY)
    tracker.metric("accuracy_test", 0.875)
    tracker.close()
    events = EventAccumulator(str(tracker.artifact_dir / "tensorboard"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert losses == [(step, pytest.approx(1 / (step + 1))) for step in range(3)]
    assert [event.value for event in events.Scalars("accuracy_test")] == [0.875]
    (text,) = events.Tensors("configuration/text_summary")
    assert b"| batch_size | 16 |" in text.tensor_proto.string_val[0]


def test_the_csv_file_has_a_row_for_each_epoch_from_the_first_on(opened):
    tracker = opened("csv")
    path = tracker.artifact_dir / "metrics.csv"
    tracker.scalar("train/loss_step", 0.9, 7)
    tracker.epochs(HISTORY[:1])
    assert len(path.read_text().splitlines()) == 2
    tracker.epochs(HISTORY)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [(row["epoch"], row["loss_train"], row["accuracy_validation"]) for row in rows] == [
        ("1", "0.5", "0.75"),
        ("2", "0.25", ""),
    ]
    tracker.epochs([*HISTORY, {"epoch": 3, "late": 9}])
    rows = [list(row.values()) for row in csv.DictReader(path.read_text().splitlines())]
    assert rows == [["1", "0.5", "0.75", ""], ["2", "0.25", "", ""], ["3", "", "", "9"]]


def test_hafnia_alone_writes_no_more_files(opened):
    tracker = opened("hafnia")
    tracker.epochs(HISTORY)
    tracker.close()
    assert list(tracker.artifact_dir.iterdir()) == []
    NullTracker().epochs(HISTORY)


@pytest.mark.parametrize("broken", ["open_writer", "write_atomically"])
def test_a_tracker_that_fails_is_said_once_and_the_run_goes_on(opened, monkeypatch, capsys, broken):
    def fail(*_):
        raise OSError("the disk is gone")

    monkeypatch.setattr(tracking if broken == "open_writer" else trackers, broken, fail)
    tracker = opened("csv")
    for count in (1, 2):
        tracker.epochs(HISTORY[:count])
    tracker.scalar("a", math.nan, 0)
    tracker.close()
    assert capsys.readouterr().err.count("the disk is gone") == 1
    assert tracker.failures == (1 if broken == "open_writer" else 2)


def test_a_tracker_that_is_not_installed_names_its_extra(monkeypatch):
    check_tracker("hafnia")
    check_tracker("tensorboard")
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda _: None)
    check_tracker("csv")
    with pytest.raises(ValueError, match=r"trainer-classification\[tensorboard\]"):
        check_tracker("tensorboard")


class Talkative:
    """A logger that prints, as Hafnia's."""

    def __init__(self, folder):
        self.path_model = self.path_model_checkpoints = self._path_artifacts = lambda: folder

    def log_scalar(self, name, value, step):
        print(f"name='{name}'")

    def end_run(self):
        print("end")


@pytest.mark.parametrize("in_cloud", [False, True])
def test_the_lines_of_the_tracker_are_for_the_platform_only(tmp_path, monkeypatch, capsys, in_cloud):
    monkeypatch.setattr(tracking, "in_cloud", lambda: in_cloud)
    monkeypatch.setattr(tracking, "_create_logger", lambda *_: Talkative(tmp_path))
    tracker = Tracker("p", tmp_path)
    tracker.scalar("train/loss", 0.5, 1)
    tracker.close()
    assert capsys.readouterr().out == ("name='train/loss'\nend\n" if in_cloud else "")
    print("ours")
    assert capsys.readouterr().out == "ours\n"
