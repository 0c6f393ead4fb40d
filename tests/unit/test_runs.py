"""Runs are listed by what their summaries say; older and unfinished ones too."""

import json

import pytest

from trainer_classification import cli
from trainer_classification.config import RunsConfig
from trainer_classification.outputs.runs import find_runs, format_csv, format_table


@pytest.fixture
def folder(tmp_path):
    summaries = {
        "2026-01-02": {
            "dataset": "mnist",
            "model": "resnet18",
            "accuracy_test": 0.9,
            "accuracy_test_interval": [0.85, 0.94],
            "seconds_total": 12.34,
        },
        "2026-01-01": {"dataset": "old, one", "accuracy_test": None, "seconds_total": 3.0},
        "2026-01-03": None,
    }
    for name, summary in summaries.items():
        run = tmp_path / "experiments" / name
        (run / "checkpoints").mkdir(parents=True)
        (run / "data").mkdir()
        if summary is not None:
            (run / "data/summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return tmp_path


def test_runs_are_a_table_the_oldest_first(folder):
    head, old, new, unfinished = format_table(find_runs(folder))
    assert head.split() == ["dataset", "network", "accuracy", "on", "test", "95", "%", "interval", "seconds", "folder"]
    assert "no test split" in old
    assert new.split()[:7] == ["mnist", "resnet18", "90.00%", "85.00%", "to", "94.00%", "12.3"]
    assert new.index("90.00%") == head.index("accuracy")
    assert unfinished.startswith("not finished")
    assert unfinished.endswith("2026-01-03")


def test_csv_has_full_figures(folder):
    lines = format_csv(find_runs(folder)).splitlines()
    assert lines[0] == "dataset,network,accuracy,low,high,seconds,folder"
    assert lines[1].startswith('"old, one",,,,,3.0,')
    assert lines[2].startswith("mnist,resnet18,0.9,0.85,0.94,12.34,")
    assert lines[3].startswith(",,,,,,")


def test_without_runs_it_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"There is no run in .*experiments: train one"):
        find_runs(tmp_path)
    assert cli.run(RunsConfig, lambda config: len(find_runs(tmp_path)), []) == cli.USER_ERROR
