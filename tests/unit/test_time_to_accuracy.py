"""Time to an accuracy: reached, ended, or given up in the middle of an epoch."""

import itertools

import pytest
import torch

from trainer_classification.bench import accuracy


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
    found = accuracy.time_to(Improving(), 0.5, 1000, torch.device("cpu"))
    assert (found.reached, found.epochs, found.accuracies) == (True, 2, [0.3, 0.6])


def test_it_ends_with_the_last_epoch_that_is_planned():
    assert not accuracy.time_to(Improving(epochs=1), 0.5, 1000, torch.device("cpu")).reached


def test_it_is_given_up_within_an_epoch():
    training = Improving()
    found = accuracy.time_to(training, 0.9, 4, torch.device("cpu"))
    assert training.steps < 10
    assert (found.reached, found.epochs) == (False, 1)
