"""What a step can do beside the plain one: in parts, clipped, compiled; and what it counts."""

import dataclasses

import pytest
import torch
from torch import nn

from trainer_classification.augment.mixup import Mixing
from trainer_classification.loaders.base import Batch
from trainer_classification.models.normalize import Normalize
from trainer_classification.optim.parameter_groups import build_optimizer
from trainer_classification.recipes import RECIPES
from trainer_classification.training.distributed import World
from trainer_classification.training.metrics import Metrics
from trainer_classification.training.preflight import are_equal, run_check
from trainer_classification.training.step import Step
from trainer_classification.training.torch_compile import compile_model

CPU = torch.device("cpu")
RECIPE = dataclasses.replace(RECIPES["mnist"], momentum=0.0, weight_decay=0.0, learning_rate=1.0)


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 13 * 13, 5))


def batch(size=12):
    images = torch.randint(0, 256, (size, 28, 28, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Batch(images, torch.arange(size) % 5, torch.arange(size), size)


def stepped(model=None, **options):
    """(weights, loss, totals) after one step of rate 1."""
    model = model or plain()
    step = Step(model, build_optimizer(model, RECIPE), Normalize([0.5], [0.25], CPU), label_smoothing=0.1, **options)
    totals = Metrics(CPU)
    loss = step(batch(), 0, totals)
    return torch.cat([p.detach().flatten() for p in model.parameters()]), loss, totals


@pytest.mark.parametrize("mixing", [None, Mixing(0, 0.4, 1.0)])
@pytest.mark.parametrize("parts", [2, 5, 12, 100])
def test_in_parts_the_gradient_and_the_figures_are_those_of_the_whole_batch(parts, mixing):
    whole, loss, totals = stepped(mixing=mixing)
    summed, loss_in_parts, totals_in_parts = stepped(mixing=mixing, accumulate=parts)
    torch.testing.assert_close(summed, whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss_in_parts, loss)
    assert totals_in_parts.read() == pytest.approx(totals.read())


class Small(nn.Module):
    """A network on a device whose memory holds the maps of `most` images."""

    def __init__(self, most):
        super().__init__()
        self.network = plain()
        self.most = most
        self.sizes = []

    def forward(self, images):
        self.sizes.append(len(images))
        output = self.network(images)
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return output


def test_a_batch_that_does_not_fit_is_computed_in_parts_from_then_on(capsys):
    model = Small(4)
    weights, loss, totals = stepped(model)
    expected, expected_loss, expected_totals = stepped()
    assert model.sizes == [12, 6, 3, 3, 3, 3]
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss, expected_loss)
    assert totals.read() == pytest.approx(expected_totals.read())
    said = capsys.readouterr().err
    assert "does not suffice for 12 images at once: batches are computed in 4 parts from now on" in said


class Normalized(Small):
    """With statistics and random numbers, which a trial must not move."""

    def __init__(self, most):
        super().__init__(most)
        self.norm = nn.BatchNorm2d(1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images):
        return super().forward(self.dropout(self.norm(images)))


@pytest.mark.parametrize(("most", "failing_elsewhere", "sizes"), [(12, [], [12, 12]), (12, [12], [12, 6, 6, 6, 6])])
def test_a_trial_before_the_first_exchange_moves_nothing_and_heeds_the_other_ranks(most, failing_elsewhere, sizes):
    model = Normalized(most)
    torch.manual_seed(3)
    weights, *_ = stepped(model, any_rank=lambda failed: failed or model.sizes[-1] in failing_elsewhere)
    expected = Normalized(12)
    torch.manual_seed(3)
    expected_weights, *_ = stepped(expected, accumulate=len(sizes) // 2)
    assert model.sizes == sizes
    assert torch.equal(weights, expected_weights)
    assert torch.equal(model.norm.running_mean, expected.norm.running_mean)


@pytest.mark.parametrize("failures", [1, 9])
def test_memory_that_does_not_suffice_to_copy_the_buffers_is_said_to_the_other_ranks(monkeypatch, failures):
    """A rank that fails before it has told the others leaves them waiting."""
    model = Normalized(12)
    left = [failures]
    clone = torch.Tensor.clone

    def fail(tensor, *arguments, **options):
        if any(tensor is buffer for buffer in model.buffers()) and left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return clone(tensor, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "clone", fail)
    told = []

    def any_rank(failed):
        told.append(failed)
        return failed

    before = model.norm.running_mean.tolist()
    if failures == 1:
        stepped(model, any_rank=any_rank)
        assert told == [True, False]
        assert model.sizes == [6, 6, 6, 6]  # of the trial and of the step
    else:
        with pytest.raises(torch.OutOfMemoryError):
            stepped(model, any_rank=any_rank)
        assert told == [True] * 4  # in 1, 2, 4 and 8 parts of 12 images
        assert model.norm.running_mean.tolist() == before


def test_what_fits_no_rank_ends_the_step_on_the_rank_that_failed():
    model = Small(0)
    with pytest.raises(torch.OutOfMemoryError):
        stepped(model, any_rank=lambda failed: failed, may_split=False)
    assert model.sizes == [12, 6, 3, 2, 1][: len(model.sizes)]


def test_parts_of_a_failed_attempt_leave_no_gradient():
    class Second(Small):
        def forward(self, images):
            if len(self.sizes) == 1:
                self.sizes.append(len(images))
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().forward(images)

    weights, *_ = stepped(Second(6), accumulate=2)
    torch.testing.assert_close(weights, stepped()[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"may_split": False}, {"accumulate": 12}])
def test_memory_that_cannot_be_had_by_parts_ends_the_step(options):
    model = Small(0)
    with pytest.raises(torch.OutOfMemoryError):
        stepped(model, **options)
    assert len(model.sizes) == 1


def test_a_clipped_step_is_as_long_as_the_norm_allows_and_a_short_one_is_left_alone():
    before = torch.cat([p.detach().flatten() for p in plain().parameters()])
    free, clipped, loose = (stepped(clip_norm=norm)[0] - before for norm in (0.0, 0.01, 1e6))
    assert float(clipped.norm()) == pytest.approx(0.01, rel=1e-3)
    assert float(free.norm()) > 0.1
    torch.testing.assert_close(free, loose)
    torch.testing.assert_close(clipped / clipped.norm(), free / free.norm(), rtol=1e-3, atol=1e-5)


class Overflowing:
    """A scaler whose first step overflows, in fp16's manner: the scale falls, and the step is skipped."""

    def __init__(self):
        self.factor = 1024.0

    def is_enabled(self):
        return True

    def scale(self, tensor):
        return tensor * self.factor

    def step(self, optimizer):
        if self.factor < 1024:
            optimizer.step()

    def update(self):
        self.factor = 512.0


def test_steps_skipped_for_overflow_and_losses_not_finite_are_counted_for_the_run():
    model = plain()
    step = Step(model, build_optimizer(model, RECIPE), Normalize([0.5], [0.25], CPU), label_smoothing=0.0)
    step.scaler = Overflowing()
    totals = Metrics(CPU)
    for number in range(3):
        step(batch(), number, totals)
    assert totals.failed_steps.tolist() == [0, 1]
    totals.add(torch.tensor(float("inf")), torch.zeros(1, 5), torch.zeros(1, dtype=torch.int64))
    totals.reset()
    assert totals.failed_steps.tolist() == [1, 1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # raised by torch's compiler at its first import
def test_a_compiled_step_moves_the_weights_as_the_plain_one_and_keeps_their_names():
    model = plain()
    names = list(model.state_dict())
    weights, *_ = stepped(model, forward=compile_model(model, "default"))
    torch.testing.assert_close(weights, stepped()[0], rtol=1e-4, atol=1e-5)
    assert list(model.state_dict()) == names


def test_compiling_without_a_compiler_says_what_to_install(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(ValueError, match=r"apt-get install g\+\+"):
        compile_model(plain(), "default")
    model = plain()
    assert compile_model(model, "off") is model


def test_one_process_needs_no_process_group():
    world, tensor = World(), torch.ones(3)
    world.sum(tensor)
    world.broadcast_state(plain())
    assert torch.equal(world.gather(tensor), torch.ones(1, 3))
    assert world.broadcast_object(lambda: 5) == 5
    model = plain()
    assert world.wrap_ddp(model, CPU, True) is model


def test_states_are_compared_down_to_the_last_tensor():
    state = {"a": [torch.tensor([1.0, float("nan")]), 3], "b": {"c": torch.arange(3)}}
    assert are_equal(state, {"a": [torch.tensor([1.0, float("nan")]), 3], "b": {"c": torch.arange(3)}})
    assert not are_equal(state, {"a": [torch.tensor([1.0, 2.0]), 3], "b": {"c": torch.arange(3)}})
    assert not are_equal(state, {"a": state["a"], "b": {}})


@pytest.mark.parametrize("error", [ValueError("x"), OSError("x"), torch.OutOfMemoryError("x")])
def test_a_check_that_fails_says_no_and_why(error, capsys):
    def fail():
        raise error

    assert not run_check("memory", fail)
    said = capsys.readouterr().err
    assert "preflight memory: no, x" in said
    assert ("--accumulate" in said) == isinstance(error, torch.OutOfMemoryError)
    assert run_check("step", lambda: "fine")


def test_a_check_that_fails_on_another_process_says_which(monkeypatch, capsys):
    def fail():
        raise torch.OutOfMemoryError("x")

    monkeypatch.setenv("RANK", "2")
    assert not run_check("step", fail)
    assert "preflight step on process 2: no, x" in capsys.readouterr().err
