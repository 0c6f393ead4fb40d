"""Schedule, optimizers, average, checkpoints, step and evaluation."""

import copy
import dataclasses
import errno
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers import meta_of
from trainer_classification.checkpoint import archive
from trainer_classification.checkpoint import file as checkpoint
from trainer_classification.device import choose_device, choose_precision
from trainer_classification.loaders.base import Batch, BatchSchedule
from trainer_classification.metrics import confusion
from trainer_classification.models import build
from trainer_classification.models.normalize import Normalize
from trainer_classification.optim.ema import ModelEma
from trainer_classification.optim.lr_schedule import factor
from trainer_classification.optim.parameter_groups import (
    build_optimizer,
    load_optimizer_state,
    optimizer_state,
    parameter_groups,
    set_learning_rate,
    store_learning_rates,
)
from trainer_classification.recipes import RECIPES, SPEED_RECIPES
from trainer_classification.training.evaluate import Evaluation, evaluate
from trainer_classification.training.metrics import Metrics
from trainer_classification.training.step import Step
from trainer_classification.training.step_timer import StepTimer
from trainer_classification.training.torch_compile import choose_step_mode

CPU = torch.device("cpu")


@given(
    total=st.integers(1, 500),
    kind=st.sampled_from(["cosine", "triangular", "constant"]),
    warmup=st.floats(0, 1),
)
@settings(max_examples=60, deadline=None)
def test_the_rate_rises_once_to_the_peak_and_never_rises_again(total, kind, warmup):
    rates = [factor(step, total, kind, warmup) for step in range(total)]
    peak = int(np.argmax(rates))
    assert max(rates) == 1.0
    assert all(rate > 0 for rate in rates)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert peak == min(round(warmup * total), total - 1)


def test_norms_and_biases_do_not_decay_and_every_parameter_is_trained():
    model = build("resnet18", 10, 3, 32)
    decayed, free = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    spared = {id(p) for p in free["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in spared) == (name.endswith(".bias") or ".bn" in f".{name}" or "downsample.1" in name)
    assert len(decayed["params"]) + len(spared) == len(list(model.parameters()))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_both_optimizers_learn(name):
    torch.manual_seed(0)
    model = build("resnet-small", 2, 1, 28, 8)
    recipe = dataclasses.replace(RECIPES["mnist"], optimizer=name, learning_rate=0.01)
    step = Step(model, build_optimizer(model, recipe), Normalize([0.5], [0.25], CPU), label_smoothing=0.0)
    losses = [float(step(batch(i % 2), i, Metrics(CPU))) for i in range(30)]
    assert losses[-1] < 0.5 * losses[0]


def batch(seed, size=8, count=None):
    """Dark images of class 0, bright ones of class 1."""
    labels = torch.arange(size) % 2
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 100, (size, 28, 28, 1), generator=generator)
    images = (noise + 150 * labels[:, None, None, None]).to(torch.uint8)
    return Batch(images, labels, torch.arange(size), size if count is None else count)


def test_five_steps_on_the_cpu_have_the_losses_they_always_had():
    """Golden, to 1 %: another number means another network, loss, optimizer or normalisation."""
    torch.manual_seed(0)
    model = build("resnet-small", 10, 1, 28, 16)
    step = Step(model, build_optimizer(model, RECIPES["mnist"]), Normalize([0.13], [0.31], CPU), label_smoothing=0.05)
    losses = []
    for number in range(5):
        for group in step.optimizer.param_groups:
            group["lr"] = 0.05
        losses.append(float(step(batch(number, 32), number, Metrics(CPU))))
    assert losses == pytest.approx(GOLDEN_LOSSES, rel=0.01)


GOLDEN_LOSSES = [2.4069, 1.8106, 1.2279, 0.7571, 0.4623]


def test_normalising_gives_the_floats_of_the_plain_formula_in_channels_last():
    images = torch.randint(0, 256, (4, 6, 5, 3), dtype=torch.uint8)
    mean, std = [0.1, 0.5, 0.9], [0.2, 0.3, 0.0]
    out = Normalize(mean, std, CPU)(images)
    expected = (images.permute(0, 3, 1, 2) / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor([0.2, 0.3, 1e-3])[
        :, None, None
    ]
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-3)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_the_average_follows_by_its_decay_statistics_included():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = ModelEma(model, 0.9)
    start = model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight += 1
        model[1].running_mean += 10
    average.update(step=1000)
    torch.testing.assert_close(average.model[0].weight, start + 0.1)
    torch.testing.assert_close(average.model[1].running_mean, torch.ones(2))


def test_a_checkpoint_comes_back_and_a_failed_write_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "last.pth"
    checkpoint.save(path, {"w": torch.arange(3)}, meta_of(epoch=1))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(path, {"w": torch.arange(9)}, meta_of(epoch=2))
    state, meta = checkpoint.load(path)
    assert torch.equal(state["w"], torch.arange(3))
    assert meta == meta_of(epoch=1)
    assert os.listdir(tmp_path) == ["last.pth"]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_a_damaged_checkpoint_is_said_to_be_one(tmp_path, content):
    path = tmp_path / "last.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"last\.pth is damaged"):
        checkpoint.load(path)


def test_waiting_counts_where_the_device_has_nothing_to_do():
    clock = StepTimer(CPU)
    clock.request_batch()
    clock.receive_batch()
    waited = clock.waiting
    assert waited > 0
    clock._last_step = SimpleNamespace(query=lambda: False)  # a GPU that still works
    clock.request_batch()
    clock.receive_batch()
    assert clock.waiting == waited
    clock._last_step = SimpleNamespace(query=lambda: True)
    clock.request_batch()
    clock.receive_batch()
    assert clock.waiting > waited


@pytest.mark.parametrize(
    ("asked", "device", "processes", "mixes", "found"),
    [
        ("auto", "cpu", 1, False, "off"),
        ("auto", "cuda", 1, False, "graph"),
        ("auto", "cuda", 4, False, "off"),
        ("auto", "cuda", 1, True, "off"),
        ("graph", "cuda", 1, False, "graph"),
        ("default", "cpu", 2, True, "default"),
    ],
)
def test_a_step_is_recorded_on_one_gpu_alone(asked, device, processes, mixes, found):
    assert choose_step_mode(asked, torch.device(device), processes, mixes) == found


@pytest.mark.parametrize(("device", "processes", "mixes"), [("cpu", 1, False), ("cuda", 2, False), ("cuda", 1, True)])
def test_a_graph_that_cannot_be_is_refused_with_the_reason(device, processes, mixes):
    with pytest.raises(
        ValueError, match=r"because this run (trains on a CPU|has 2 processes|draws mixup).*omit --compile"
    ):
        choose_step_mode("graph", torch.device(device), processes, mixes)


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_rates_in_memory_move_the_weights_as_numbers_do_and_are_saved_as_numbers(name):
    recipe = SPEED_RECIPES["cifar100"] if name == "muon" else dataclasses.replace(RECIPES["mnist"], optimizer=name)
    found = []
    for kept in (False, True):
        torch.manual_seed(0)
        model = build("speednet" if name == "muon" else "resnet-small", 2, 1, 28)
        optimizer = build_optimizer(model, recipe)
        if kept:
            store_learning_rates(optimizer, CPU)
        step = Step(model, optimizer, Normalize([0.5], [0.25], CPU), label_smoothing=0.0)
        for number, rate in enumerate((0.01, 0.0, 0.03)):
            set_learning_rate(optimizer, rate)
            step(batch(number), number, Metrics(CPU))
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        rates = [group["lr"] for group in optimizer_state(optimizer)["param_groups"]]
        assert all(isinstance(rate, float) for rate in rates)
        assert rates[0] == pytest.approx(0.03)
    torch.testing.assert_close(*found)


def test_totals_count_images_and_steps_that_are_not_finite_in_a_row():
    totals = Metrics(CPU)
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0])
    totals.add(torch.tensor(0.5), logits, labels)
    totals.add(torch.tensor(1.5), logits, labels)
    assert totals.read() == (1.0, 0.5, 4, 0)
    for _ in range(3):
        totals.add(torch.tensor(float("nan")), logits, labels)
    assert int(totals.not_finite) == 3
    totals.add(torch.tensor(1.0), logits, labels)
    assert int(totals.not_finite) == 0


class Fixed:
    """A loader of given batches."""

    def __init__(self, batches):
        self.batches, self.samples = batches, sum(b.count for b in batches)
        self.steps = len(batches)
        self.schedule = BatchSchedule(None, self.steps * len(batches[0].labels), len(batches[0].labels))

    def epoch(self, epoch, start_step=0):
        return iter(self.batches)


@pytest.mark.parametrize("max_dense", [1000, 1])
def test_evaluation_counts_real_rows_alone(monkeypatch, max_dense):
    """With a matrix on the device, and with a list of cells as for many classes."""
    monkeypatch.setattr(confusion, "MAX_DENSE_CLASSES", max_dense)

    class Brightness(nn.Module):
        def forward(self, x):
            bright = x.mean((1, 2, 3))
            return torch.stack([-bright, bright], 1)

    batches = [batch(0, 8), batch(1, 8, count=3)]
    batches[1].labels[1] = 0  # a wrong label among the real rows
    batches[1].labels[5] = 0  # and one in the padding
    result = evaluate(Brightness(), Fixed(batches), Normalize([0.5], [0.2], CPU), 2)
    assert result.accuracy == pytest.approx(10 / 11)
    cells = confusion.list_cells(result.confusion)
    assert list(zip(cells.true, cells.predicted, cells.count, strict=True)) == [(0, 0, 6), (0, 1, 1), (1, 1, 4)]
    assert isinstance(result.confusion, confusion.ConfusionPairs) == (max_dense == 1)
    assert result.balanced_accuracy == pytest.approx((6 / 7 + 4 / 4) / 2)


def test_classes_without_images_do_not_count_in_the_balanced_accuracy():
    assert Evaluation(0.0, 0.0, np.array([[3, 1, 0], [0, 0, 0], [0, 1, 1]])).balanced_accuracy == (3 / 4 + 1 / 2) / 2


def test_a_cpu_trains_in_fp32_and_says_why():
    device, why = choose_device("cpu")
    assert device == CPU
    assert why
    assert choose_precision(device, "auto")[0] is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_asking_for_a_gpu_that_is_not_there_says_what_to_do():
    with pytest.raises(ValueError, match="nvidia-smi"):
        choose_device("cuda")


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_checkpoint_whose_state_is_contiguous_continues_as_one_with_the_layout_of_the_weights(name):
    """Fused optimizers walk through weight and state in the order of memory."""
    recipe = dataclasses.replace(meta_of().recipe, optimizer=name, momentum=0.9, learning_rate=0.1)

    def steps(model, optimizer, count):
        for number in range(count):
            images = torch.from_numpy(np.random.default_rng(number).random((4, 3, 9, 9), np.float32))
            optimizer.zero_grad()
            model(images.contiguous(memory_format=torch.channels_last)).square().sum().backward()
            optimizer.step()
        return model[0].weight.detach().clone()

    def build_both():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3)).to(memory_format=torch.channels_last)
        return model, build_optimizer(model, recipe)

    model, optimizer = build_both()
    steps(model, optimizer, 2)
    saved = copy.deepcopy((model.state_dict(), optimizer_state(optimizer)))
    expected = steps(model, optimizer, 2)

    for values in saved[1]["state"].values():
        values |= {key: value.contiguous() for key, value in values.items() if isinstance(value, torch.Tensor)}
    resumed, other = build_both()
    resumed.load_state_dict(saved[0])
    load_optimizer_state(other, saved[1])
    torch.testing.assert_close(steps(resumed, other, 2), expected)
    strides = {value.stride() for value in other.state[resumed[0].weight].values() if value.ndim == 4}
    assert strides == {resumed[0].weight.stride()}


@pytest.mark.parametrize("share", np.linspace(0, 0.99, 15).round(2).tolist())
def test_a_disk_that_fills_while_a_checkpoint_is_written_is_said_and_the_one_before_stays(tmp_path, monkeypatch, share):
    path = tmp_path / "last.pth"
    tensors = {"model": {"weight": torch.zeros(50_000)}, "optimizer": {}}
    checkpoint.save(path, tensors, meta_of(epoch=1))
    before = path.read_bytes()
    free = [int(share * len(before))]
    real = os.write

    def write(descriptor, data):
        count = min(len(data), free[0])
        free[0] -= count
        if data and not count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data[:count])

    monkeypatch.setattr(os, "write", write)
    for save in (
        lambda: checkpoint.save(path, tensors, meta_of(epoch=2)),
        lambda: archive.write(tmp_path, path, tensors["model"], meta_of(epoch=2), "task"),
    ):
        with pytest.raises(OSError, match="No space left") as caught:
            save()
        assert caught.value.errno == errno.ENOSPC
        free[0] = int(share * len(before))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["last.pth"]
