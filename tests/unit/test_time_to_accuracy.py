"""Time to an accuracy: reached, ended, or given up in the middle of an epoch."""

import itertools
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from harness import time_to_accuracy as accuracy
from harness.time_to_accuracy import AccuracyRun
from trainer_classification.recipes import RECIPES


class Improving:
    def __init__(self, epochs=0):
        self.epochs, self.steps, self.ended = epochs, 0, 0

    def train(self, epoch):
        for _ in range(10):
            self.steps += 1
            yield
        self.ended += 1

    def accuracy(self):
        return 0.3 * self.ended

    def close(self):
        pass


@pytest.fixture(autouse=True)
def a_second_at_every_look(monkeypatch):
    monkeypatch.setattr(accuracy, "monotonic", map(float, itertools.count()).__next__)


def test_it_ends_with_the_accuracy():
    found = accuracy.train_to_accuracy(Improving(), 0.5, 1000, torch.device("cpu"))
    assert (found.reached, found.epochs, found.accuracies) == (True, 2, [0.3, 0.6])


def test_it_ends_with_the_last_epoch_that_is_planned():
    assert not accuracy.train_to_accuracy(Improving(epochs=1), 0.5, 1000, torch.device("cpu")).reached


def test_it_is_given_up_within_an_epoch():
    training = Improving()
    found = accuracy.train_to_accuracy(training, 0.9, 4, torch.device("cpu"))
    assert training.steps < 10
    assert (found.reached, found.epochs) == (False, 1)


def test_the_last_epoch_may_be_a_part_of_one():
    step = Mock(optimizer=torch.optim.SGD([torch.zeros(1)], 1.0))
    training = SimpleNamespace(
        total=15,
        steps=10,
        workload=SimpleNamespace(recipe=RECIPES["mnist"]),
        trainer=SimpleNamespace(step=step, totals=None),
        _batches=lambda epoch: iter(range(10)),
    )
    assert [len([*accuracy.Ours.train(training, epoch)]) for epoch in (0, 1)] == [10, 5]
    assert 0 < step.optimizer.param_groups[0]["lr"] < 0.1


def compared(ours=True, again=True, fed=True, baseline=True):
    """The figures and the line of train_bench for runs of 10, 10, 20 and 100 s that reached the accuracy or did not."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    try:
        import train_bench
    finally:
        sys.path.pop(0)
    seconds = {10.0: ours, 10.1: again, 20.0: fed, 100.0: baseline}
    return train_bench.compare_runs(*(AccuracyRun(took, reached, 1, []) for took, reached in seconds.items()))


def test_the_ratio_is_split_into_data_path_and_network_where_all_reached_the_accuracy():
    figures, text = compared()
    assert figures["ratio"] == pytest.approx(100 / 10.05)
    assert not figures["ratio_is_lower_bound"]
    assert text == "ratio baseline / ours: 10x; the data path accounts for 2.0x of it, network and recipe for 5.0x"


def test_a_baseline_that_was_given_up_makes_the_ratio_a_lower_bound():
    figures, text = compared(baseline=False)
    assert figures["ratio_is_lower_bound"]
    assert text.startswith("ratio baseline / ours: at least 10x; the data path accounts for 2.0x of it")
    assert text.endswith("network and recipe for at least 5.0x")


@pytest.mark.parametrize("which", ["ours", "again"])
@pytest.mark.parametrize("baseline", [True, False])
def test_there_is_no_ratio_where_ours_did_not_reach_the_accuracy(which, baseline):
    figures, text = compared(**{which: False}, baseline=baseline)
    assert (figures["ratio"], figures["ratio_is_lower_bound"], figures["ours_reached"]) == (None, False, False)
    assert text == "ratio baseline / ours: none, as ours did not reach the accuracy"


def test_the_ratio_is_not_split_where_ours_did_not_reach_the_accuracy_with_the_baselines_data():
    figures, text = compared(fed=False)
    assert figures["ratio"] == pytest.approx(100 / 10.05)
    assert text == "ratio baseline / ours: 10x"
