"""The room that is asked for before preparing is the room that is taken."""

from pathlib import Path

import pytest

from trainer_classification.config import PrepareConfig
from trainer_classification.preparation import partial
from trainer_classification.preparation.pipeline import prepare

SAMPLES = Path(__file__).parents[2] / "samples"
FORMATS = ["array", "beton", "tar", "array,beton,tar"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "cifar100", "caltech-101"])
def test_the_estimate_is_within_a_fifth_of_what_is_used(tmp_path, monkeypatch, chance, times, name):
    """Of all formats with HARDENING_COUNT=1, of one by default."""
    asked = []
    used = []
    publish = partial.publish

    def note_and_publish(folder, target):
        used.append(partial.used_bytes([folder]))
        publish(folder, target)

    monkeypatch.setattr(partial, "check_room", lambda parent, needed: asked.append(needed))
    monkeypatch.setattr(partial, "publish", note_and_publish)
    # Planes are for photographs.
    kinds = [*FORMATS, "planes"] if name == "caltech-101" else FORMATS
    for formats in chance.sample(kinds, min(len(kinds), times(len(kinds)))):
        out = tmp_path / formats
        prepare(PrepareConfig(dataset=str(SAMPLES / name), prepared=str(out), formats=formats))
        text = f"{formats}: asked for {asked[-1]:,}, used {used[-1]:,}"
        assert used[-1] / 1.2 <= asked[-1] <= 1.2 * used[-1], text
