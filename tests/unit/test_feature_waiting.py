"""How long the threads of a frozen network wait for images."""

from __future__ import annotations

from trainer_classification.training.features import _Waiting


def test_images_made_while_all_threads_compute_are_not_waited_for() -> None:
    waiting = _Waiting(2)
    waiting.begin_batch(1.0)  # both threads had nothing to compute
    assert waiting.seconds == 1.0
    waiting.begin_batch(1.0)  # one had nothing
    assert waiting.seconds == 1.5

    waiting.begin_batch(1.0)
    assert waiting.seconds == 1.5


def test_computed_batches_no_longer_keep_threads_busy() -> None:
    waiting = _Waiting(2)
    waiting.begin_batch(0.0)
    waiting.begin_batch(0.0)
    waiting.end_batch()

    waiting.begin_batch(1.0)

    assert waiting.seconds == 0.5
