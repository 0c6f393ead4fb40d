"""The room that is asked for before preparing is the room that is taken."""

from pathlib import Path

import pytest

from trainer_classification.config import PrepareConfig
from trainer_classification.preparation import partial
from trainer_classification.preparation.pipeline import prepare

SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.mark.slow
@pytest.mark.parametrize("formats", ["array", "beton", "tar", "array,beton,tar", "planes"])
@pytest.mark.parametrize("name", ["mnist", "cifar100", "caltech-101"])
def test_the_estimate_is_within_a_fifth_of_what_is_used(tmp_path, monkeypatch, name, formats):
    if formats == "planes" and name != "caltech-101":
        pytest.skip("planes are for photographs")
    asked = []
    used = []
    publish = partial.publish

    def note_and_publish(folder, target):
        used.append(partial.used_bytes([folder]))
        publish(folder, target)

    monkeypatch.setattr(partial, "check_room", lambda parent, needed: asked.append(needed))
    monkeypatch.setattr(partial, "publish", note_and_publish)
    prepare(PrepareConfig(dataset=str(SAMPLES / name), prepared=str(tmp_path), formats=formats))
    assert used[-1] / 1.2 <= asked[-1] <= 1.2 * used[-1], f"asked for {asked[-1]:,}, used {used[-1]:,}"
