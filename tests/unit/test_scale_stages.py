"""Each stage of the scale bench runs on made-up rows, and gives what it says it measures."""

import pytest

from harness.scale_stages import STAGES

COUNT = 1500  # three jobs


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_can_be_run_again_and_again(tmp_path, name):
    run = STAGES[name](COUNT, tmp_path)
    run()
    result = run()
    if name == "collect results":
        collected, _ = result
        assert len(collected.hashes) == COUNT
        assert len(collected.good_rows()) == COUNT - 1
    if name == "open tars":
        assert sum(len(extents.samples) for extents in result) == COUNT
    if name == "start epoch":
        assert result[2].box.shape == (1024, 4)
