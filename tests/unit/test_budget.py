"""Plans by time: parsed, planned and mended on a machine whose clock we turn ourselves."""

import dataclasses
import types

import pytest

from trainer_classification.checkpoint.meta import Progress
from trainer_classification.recipes import RECIPES
from trainer_classification.training.budget import (
    BudgetClock,
    BudgetController,
    EpochPlan,
    EpochShape,
    MeasuredEpoch,
    parse_seconds,
    plan_epochs,
    replan,
    update_times,
)
from trainer_classification.training.distributed import World
from trainer_classification.training.progressive import image_size
from trainer_classification.training.step_times import Times


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10min", 600), ("1.5h", 5400), (" 45 ", 45), ("2 M", 120)])
def test_a_time_is_read_in_every_usual_spelling(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["soon", "", "0", "-5s", "3 days", "1.2.3s"])
def test_what_is_no_time_says_what_would_be(text):
    with pytest.raises(ValueError, match="10min"):
        parse_seconds(text)


def full(_, __):
    return 32


def growing(epoch, epochs):
    return image_size(epoch, epochs, 96, 192)


class Machine:
    """Runs a plan: its steps take what they take, whatever the plan believed."""

    def __init__(self, step, evaluation, finish, slower_from=1e9, factor=1.0):
        self.step, self.evaluation, self.finish = step, evaluation, finish
        self.slower_from, self.factor, self.now, self.epochs = slower_from, factor, 0.0, 0

    def run(self, budget, believed, steps, size, started=0.0):
        self.now, times = started, believed
        shape = EpochShape(steps, size)
        planned = plan_epochs(budget - started, times, shape)
        while self.epochs < planned.epochs:
            side = size(self.epochs, planned.epochs)
            slow = self.factor if self.now > self.slower_from else 1.0
            training = planned.steps * slow * self.step(side)
            self.now += training + self.evaluation
            self.epochs += 1
            measured = MeasuredEpoch(self.epochs, training / planned.steps, self.evaluation)
            times = update_times(times, planned, measured, size)
            planned = replan(planned, self.epochs, BudgetClock(budget, self.now), times, shape)
        self.now += self.finish
        return self.now


@pytest.mark.parametrize("budget", [30.0, 120.0, 600.0, 3600.0])
@pytest.mark.parametrize("size", [full, growing])
def test_a_budget_is_kept_within_a_twentieth(budget, size):
    truth = Times(0.01, 2e-6, 0.5, 3.0)
    assert Machine(truth.step, 0.5, 3.0).run(budget, truth, 90, size, started=5.0) == pytest.approx(budget, rel=0.05)


@pytest.mark.parametrize("error", [0.6, 1.5])
@pytest.mark.parametrize("size", [full, growing])
def test_it_is_kept_where_the_first_steps_misled(error, size):
    truth = Times(0.01, 2e-6, 0.5, 3.0)
    believed = Times(error * truth.fixed, error * truth.per_pixel, 0.1, 3.0)
    assert Machine(truth.step, 0.5, 3.0).run(300.0, believed, 90, size) == pytest.approx(300, rel=0.05)


@pytest.mark.parametrize("factor", [0.7, 1.4])
def test_it_is_kept_where_the_machine_gets_slower_or_faster_half_way(factor):
    truth = Times(0.0, 2e-5, 0.5, 3.0)
    machine = Machine(truth.step, 0.5, 3.0, slower_from=150.0, factor=factor)
    assert machine.run(300.0, truth, 90, full) == pytest.approx(300, rel=0.05)


def test_time_for_less_than_ten_epochs_is_cut_into_ten_short_ones():
    found = plan_epochs(100.0, Times(1.0, 0.0, 0.0, 0.0), EpochShape(60, full))
    assert found == EpochPlan(10, 10)


def test_evaluation_that_is_dear_is_done_less_often():
    assert plan_epochs(100.0, Times(1.0, 0.0, 5.0, 0.0), EpochShape(1000, full)).epochs == 2
    assert plan_epochs(100.0, Times(1.0, 0.0, 50.0, 0.0), EpochShape(1000, full)).epochs == 1


def test_what_fits_is_not_planned_anew():
    times = Times(1.0, 0.0, 0.0, 0.0)
    shape = EpochShape(60, full)
    assert replan(EpochPlan(10, 10), 4, BudgetClock(100.0, 40.5), times, shape) == EpochPlan(10, 10)
    assert replan(EpochPlan(10, 10), 4, BudgetClock(100.0, 45.0), times, shape) == EpochPlan(10, 9)
    assert replan(EpochPlan(10, 10), 10, BudgetClock(100.0, 140.0), times, shape) == EpochPlan(10, 10)


def test_a_budget_spent_before_it_begins_still_takes_a_step():
    assert plan_epochs(-5.0, Times(1.0, 0.0, 1.0, 1.0), EpochShape(60, full)) == EpochPlan(1, 1)


def test_of_an_epoch_that_was_resumed_the_steps_taken_since_are_measured():
    """Five of its hundred steps in five seconds are no hundred steps in five seconds."""
    times = Times(1.0, 0.0, 0.0, 0.0)
    state = Progress(epoch=1, epochs=4, step_limit=100, times=dataclasses.astuple(times))
    state.started = 0.0
    setup = types.SimpleNamespace(recipe=RECIPES["mnist"], world=World(), full_steps=100)
    BudgetController(budget=1e9)(setup, state, training=5.0, steps=5)
    assert Times(*state.times).step(28) == pytest.approx(1.0)


def test_an_epoch_that_was_resumed_at_its_end_measures_nothing():
    """A run that is stopped at the last step of an epoch has none left of it when it goes on."""
    state = types.SimpleNamespace(epochs=4, step_limit=9, epoch=2, times=(1.0, 1.0), started=0.0)
    before = dict(vars(state))
    BudgetController(60)(types.SimpleNamespace(), state, training=0.0, steps=0)
    assert vars(state) == before
