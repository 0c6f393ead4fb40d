"""The tracker never ends a training; summaries are whole."""

import gc
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest

from trainer_classification.outputs import metrics_file, model_card, tracking
from trainer_classification.outputs.summary import REQUIRED, write_metrics, write_summary
from trainer_classification.outputs.tracking import Tracker


class Logger:
    """Stands for HafniaLogger; fails where told."""

    def __init__(self, folder, fails=False):
        self.folder, self.fails, self.calls = folder, fails, []

    def path_model(self):
        return self.folder / "model"

    def path_model_checkpoints(self):
        return self.folder / "checkpoints"

    def _path_artifacts(self):
        return self.folder / "data"

    def _note(self, *call):
        self.calls.append(call)
        if self.fails:
            raise ConnectionError("MLflow is gone")

    def log_scalar(self, name, value, step):
        self._note(name, value, step)

    def log_metric(self, name, value, step):
        self._note(name, value, step)

    def log_configuration(self, values):
        self._note(values)

    def end_run(self):
        self._note("end")


@pytest.mark.parametrize("fails", [False, True])
def test_every_figure_is_sent_and_a_failing_logger_is_said_once_and_counted(tmp_path, monkeypatch, capsys, fails):
    logger = Logger(tmp_path, fails)
    monkeypatch.setattr(tracking, "_create_logger", lambda *_: logger)
    tracker = Tracker("p", tmp_path)
    tracker.configuration({"a": 1})
    for step in range(3):
        tracker.scalar("loss", 0.5, step)
    tracker.close()
    assert len(logger.calls) == 5
    assert logger.calls[1] == ("loss", 0.5, 0)
    errors = capsys.readouterr().err
    assert errors.count("MLflow is gone") == int(fails)
    assert ("failed 5 times" in errors) == fails
    assert tracker.model_dir.is_dir()


def test_without_the_sdk_outputs_go_to_plain_folders_with_a_line_that_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "hafnia.experiment", None)
    tracker = Tracker("p", tmp_path)
    tracker.scalar("loss", 0.5, 0)
    assert tracker.checkpoint_dir.is_dir()
    assert tmp_path in tracker.checkpoint_dir.parents
    assert "No HafniaLogger" in capsys.readouterr().err


def test_a_logger_that_cannot_start_is_one_line(tmp_path, monkeypatch, capsys):
    """Without the guard the SDK's `__del__` fails too, which pytest reports as an unraisable exception."""
    from hafnia.experiment import hafnia_logger

    monkeypatch.delattr(hafnia_logger.HafniaLogger, "_mlflow_initialized", raising=False)
    monkeypatch.setattr(hafnia_logger, "now_as_str", lambda: 1 / 0)
    Tracker("p", tmp_path)
    gc.collect()
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["environment.json", "configuration.json", "HOW_TO_STORE_YOUR_MODEL.txt"])
def test_no_part_of_a_file_is_left_where_the_sdk_found_the_disk_full(tmp_path, monkeypatch, capsys, name):
    write = Path.write_text

    def fill(path, text):
        if path.name == name:
            write(path, text[:3])
            raise OSError(28, "No space left on device")
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", fill)
    tracker = Tracker("p", tmp_path)
    tracker.configuration({"a": 1})
    tracker.close()
    assert not list(tmp_path.rglob(name))
    assert tracker.model_dir.is_dir()
    assert ("is the disk full?" if name.endswith(".json") else "No space left") in capsys.readouterr().err


@pytest.mark.parametrize("with_sdk", [True, False])
def test_runs_that_begin_in_one_second_have_folders_of_their_own(tmp_path, monkeypatch, with_sdk):
    monkeypatch.delenv("HAFNIA_CLOUD", raising=False)
    if not with_sdk:
        monkeypatch.setitem(__import__("sys").modules, "hafnia.experiment", None)
    with ThreadPoolExecutor(3) as pool:
        trackers = list(pool.map(lambda _: Tracker("p", tmp_path), range(3)))
    assert len({tracker.model_dir for tracker in trackers}) == 3


def test_a_summary_lacking_a_key_is_our_bug_and_is_not_written(tmp_path):
    with pytest.raises(AssertionError, match="accuracy_test"):
        write_summary(tmp_path, dict.fromkeys(set(REQUIRED) - {"accuracy_test"}))
    assert not (tmp_path / "summary.json").exists()
    write_summary(tmp_path, dict.fromkeys(REQUIRED))
    assert json.loads((tmp_path / "summary.json").read_text())["loader"] is None


def test_metrics_are_a_line_an_epoch(tmp_path):
    path = write_metrics(tmp_path, [{"epoch": 1}, {"epoch": 2}])
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [1, 2]


class MlflowLogger(Logger):
    """A HafniaLogger in the cloud; each figure takes `seconds` by the clock it is given."""

    _mlflow_initialized = True

    def __init__(self, folder, clock, seconds):
        super().__init__(folder)
        self.clock, self.seconds = clock, seconds

    def log_scalar(self, name, value, step):
        super().log_scalar(name, value, step)
        self.clock[0] += self.seconds if self._mlflow_initialized else 0


@pytest.mark.parametrize(("seconds", "patient"), [(0.9, True), (16.0, False)])
def test_a_server_that_keeps_the_run_waiting_is_left_after_a_minute_in_all(
    tmp_path, monkeypatch, capsys, seconds, patient
):
    clock = [0.0]
    logger = MlflowLogger(tmp_path, clock, seconds)
    monkeypatch.setattr(tracking, "_create_logger", lambda *_: logger)
    monkeypatch.setattr(tracking.time, "monotonic", lambda: clock[0])
    tracker = Tracker("p", tmp_path)
    for step in range(200):
        tracker.scalar("loss", 0.5, step)
    assert logger._mlflow_initialized == patient
    assert len(logger.calls) == 200  # the file and stdout get them all
    assert ("for the tracker's server" in capsys.readouterr().err) != patient
    if not patient:
        assert clock[0] == 5 * seconds


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (ValueError("x"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_the_tracker_is_told_how_a_run_ended(tmp_path, monkeypatch, error, status):
    ended = []
    mlflow = type("", (), {"end_run": staticmethod(lambda status: ended.append(status))})
    monkeypatch.setitem(__import__("sys").modules, "mlflow", mlflow)
    monkeypatch.setattr(tracking, "_create_logger", lambda *_: MlflowLogger(tmp_path, [0.0], 0))
    tracker = Tracker("p", tmp_path)
    try:
        try:
            if error:
                raise error
        finally:
            tracker.close()
    except (ValueError, KeyboardInterrupt):
        pass
    assert ended == [status]


def test_a_named_run_has_its_name_in_the_folder_and_in_the_tracker(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_NAME", "undefined")
    tracker = Tracker("p", tmp_path, "first try")
    tracker.metric("test/accuracy", 0.5)
    tracker.close()
    [folder] = (tmp_path / "experiments").iterdir()
    assert folder.name.endswith("-first try")
    assert tracker.checkpoint_dir.parent == tracker.artifact_dir.parent == folder
    assert os.environ["MLFLOW_RUN_NAME"] == "first try"
    assert (tracker.artifact_dir / "experiment.parquet").is_file()


def rows_of(tracker):
    return pl.read_parquet(tracker.artifact_dir / "experiment.parquet").drop("ts").rows()


def test_metrics_are_in_the_file_after_each_epoch_and_written_once_for_all_of_it(tmp_path, monkeypatch, capsys):
    """Also those that are there before: a run in the cloud goes on in the same folder."""
    monkeypatch.setattr(tracking, "in_cloud", lambda: True)
    tracker = Tracker("p", tmp_path)
    writes = []
    write = metrics_file.write_atomically
    monkeypatch.setattr(metrics_file, "write_atomically", lambda *whole: writes.append(write(*whole)))
    expected = []
    for epoch in (1, 2, 3):
        tracker.scalar("train/loss", 1 / epoch, epoch)
        tracker.scalar("seconds", 2.5, epoch)
        assert "name='seconds' ent_type='scalar' value=2.5" in capsys.readouterr().out  # as it comes
        expected += [(epoch, "train/loss", "scalar", 1 / epoch), (epoch, "seconds", "scalar", 2.5)]
        assert len(writes) == epoch - 1
        tracker.epochs([])
        assert rows_of(tracker) == expected
        if epoch == 2:
            tracker._file = metrics_file.MetricsFile(tracker._logger)
    tracker.metric("accuracy_test", 0.5)
    tracker.close()
    assert rows_of(tracker) == [*expected, (0, "accuracy_test", "metric", 0.5)]
    assert len(writes) == 4


def test_metrics_that_could_not_be_written_are_written_with_the_next(tmp_path, monkeypatch, capsys):
    tracker = Tracker("p", tmp_path)
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        tracker.scalar("a", 1.0, 1)
        tracker.epochs([])
    assert tracker.failures == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not (tracker.artifact_dir / "experiment.parquet").exists()
    tracker.scalar("a", 2.0, 2)
    tracker.epochs([])
    assert rows_of(tracker) == [(1, "a", "scalar", 1.0), (2, "a", "scalar", 2.0)]


def test_a_run_whose_report_finds_no_room_fails_and_can_be_resumed(capsys):
    def fail(error):
        raise error

    model_card._write_report(lambda: fail(OSError("image file is truncated")))
    assert "No report (OSError: image file is truncated)" in capsys.readouterr().err
    with pytest.raises(OSError, match="No space left"):
        model_card._write_report(lambda: fail(OSError(28, "No space left on device")))
