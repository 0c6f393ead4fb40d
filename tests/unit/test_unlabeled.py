"""The end of a run does not depend on what the SDK makes of a dataset."""

from types import SimpleNamespace

import numpy as np
import pytest

from trainer_classification.data.table import Table
from trainer_classification.training import unlabeled


@pytest.mark.parametrize("error", [ImportError("no module hafnia"), ValueError("format_version\n is odd")])
def test_a_dataset_that_the_sdk_refuses_leaves_the_lines_and_a_reason(tmp_path, monkeypatch, capsys, error):
    def refuse(*_):
        raise error

    monkeypatch.setattr(unlabeled, "collect_split", lambda *_: (np.array([[0.0, 1.0]], np.float32), None))
    table = Table(np.array([-1]), np.array([[8, 8]]), ["x.png"])
    monkeypatch.setattr(unlabeled, "open_table", lambda *_: table)
    monkeypatch.setattr(unlabeled, "rows_of_split", refuse)
    manifest = SimpleNamespace(unlabeled_splits=["test_unlabeled"], class_names=["a", "b"])
    setup = SimpleNamespace(
        manifest=manifest, tracker=SimpleNamespace(artifact_dir=tmp_path), inputs=SimpleNamespace(folder=tmp_path)
    )
    unlabeled.predict_unlabeled(setup, None, "m")
    assert '"class": "b"' in (tmp_path / "predictions-test_unlabeled.jsonl").read_text()
    assert str(error).splitlines()[0] in capsys.readouterr().err
    assert not (tmp_path / "predictions-test_unlabeled").exists()
