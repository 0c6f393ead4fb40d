"""When a run ends for lack of improvement on validation, and what is said about it."""

import dataclasses
from types import SimpleNamespace

import pytest

from trainer_classification.checkpoint.meta import Progress
from trainer_classification.config import TrainConfig
from trainer_classification.recipes import RECIPES
from trainer_classification.training.distributed import World
from trainer_classification.training.early_stop import count_stale_epochs, describe_early_stop, is_early_stop


def history_of(*accuracies, loss=0.5):
    return [
        {"epoch": number, "loss_validation": loss, "accuracy_validation": accuracy}
        for number, accuracy in enumerate(accuracies, 1)
    ]


@pytest.mark.parametrize(
    ("accuracies", "stale"),
    [((), 0), ((0.5,), 0), ((0.5, 0.6), 0), ((0.6, 0.5), 1), ((0.6, 0.6, 0.6), 2), ((0.6, 0.5, 0.7, 0.7), 1)],
)
def test_epochs_count_from_the_first_that_was_as_good(accuracies, stale):
    assert count_stale_epochs(history_of(*accuracies), "accuracy") == stale


def test_epochs_without_a_finite_loss_are_no_improvement():
    assert count_stale_epochs([*history_of(0.1), *history_of(0.9, 0.9, loss=None)], "accuracy") == 2
    assert count_stale_epochs(history_of(0.9, 0.9, loss=None), "accuracy") == 2


def test_without_validation_every_epoch_counts_as_better():
    assert count_stale_epochs([{"epoch": 1}, {"epoch": 2}, {"epoch": 3}], "accuracy") == 0


def test_what_best_by_compares_decides():
    rows = history_of(0.9, 0.8)
    rows[1]["loss_validation"] = 0.1
    assert count_stale_epochs(rows, "accuracy") == 1
    assert count_stale_epochs(rows, "loss") == 0


def setup_of(recipe=RECIPES["cifar10"], world=None, **options):
    return SimpleNamespace(
        config=TrainConfig(**options),
        recipe=recipe,
        world=world or World(),
        epochs=lambda progress: progress.epochs or recipe.epochs,
        total_steps=lambda progress: 10 * recipe.epochs,
    )


def test_a_run_stops_at_its_patience_and_not_before():
    state = Progress(history=history_of(0.6, 0.5, 0.5))
    assert not is_early_stop(setup_of(), state)
    assert not is_early_stop(setup_of(early_stop=3), state)
    assert is_early_stop(setup_of(early_stop=2), state)
    frozen = dataclasses.replace(RECIPES["cifar10"], freeze="backbone")
    assert not is_early_stop(setup_of(frozen, early_stop=1), state)


def test_the_first_rank_decides_for_all():
    class Other(World):
        def broadcast_object(self, make):
            return True  # what rank 0 found

    assert is_early_stop(setup_of(world=Other(1, 2), early_stop=5), Progress(history=history_of(0.1, 0.2)))


def test_what_is_left_out_is_said_and_how_far_the_rate_had_come():
    progress = Progress(epoch=12, steps_before=120, history=history_of(0.6, 0.5, 0.5))
    said = describe_early_stop(setup_of(early_stop=2), progress)
    assert "has not improved for 2 epochs (--early-stop 2), so 18 of 30 epochs are left out." in said
    assert "still 75% of its peak" in said
    assert "--epochs 12 would" in said
    constant = dataclasses.replace(RECIPES["cifar10"], schedule="constant")
    assert "peak" not in describe_early_stop(setup_of(constant, early_stop=2), progress)
    late = Progress(epoch=29, steps_before=299, history=history_of(0.6, 0.5, 0.5))
    assert "peak" not in describe_early_stop(setup_of(early_stop=2), late)
