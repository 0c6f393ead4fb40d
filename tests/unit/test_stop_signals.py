"""A signal unwinds the stack at once, or at the end of a block that may not be interrupted."""

import signal
from contextlib import nullcontext

import numpy as np
import pytest

from trainer_classification.data.formats import ArrayLayout
from trainer_classification.preparation import job
from trainer_classification.preparation.format import PrepareSpec
from trainer_classification.stop_signals import StopRequest, postpone_stop, raise_on_signals


def run(number, is_postponed, error=None):
    """Let a signal come to this process, and return what was still done."""
    done = []
    stopped = None
    try:
        with raise_on_signals("Nothing is lost."):
            with postpone_stop() if is_postponed else nullcontext():
                signal.raise_signal(number)
                done.append("rest of the block")
                if error is not None:
                    raise error
            done.append("behind the block")
    except (StopRequest, KeyboardInterrupt) as request:
        stopped = type(request)
    return stopped, done


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, StopRequest), (signal.SIGINT, KeyboardInterrupt)])
@pytest.mark.parametrize("error", [None, ValueError])
def test_a_signal_waits_for_the_end_of_a_block_and_then_comes_before_its_error(number, expected, error):
    assert run(number, True, error) == (expected, ["rest of the block"])
    assert run(number, False) == (expected, [])  # elsewhere it comes at once, before and after


def test_an_image_is_not_interrupted(monkeypatch, tmp_path):
    """Its decoder may be compiled, and the process that of the command: it ended by SIGSEGV."""
    images = []

    def process(job, number, writers, result):
        signal.raise_signal(signal.SIGTERM)
        images.append(number)
        return ""

    monkeypatch.setattr(job, "_process", process)
    zeros = np.zeros(2, np.int64)
    nowhere = np.zeros(2, bool)
    spec = PrepareSpec(ArrayLayout(80, True, 3), {"tar": {}})
    two = job.Job(["a.png", "b.png"], zeros, zeros, spec, tmp_path / "0", nowhere, nowhere, None, {})
    with pytest.raises(StopRequest), raise_on_signals("Nothing is lost."):
        job.run_job(two)
    assert images == [0]
