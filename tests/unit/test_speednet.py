"""SpeedNet and Muon: sizes, a whitened start, orthogonal steps, and no wait for the device under GradScaler."""

import copy
import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from trainer_classification.config import TrainConfig
from trainer_classification.data.array import ArrayStore
from trainer_classification.data.formats import ArrayLayout
from trainer_classification.loaders import registry
from trainer_classification.loaders.base import Batch
from trainer_classification.models import build, count_macs, count_parameters
from trainer_classification.models.normalize import Normalize
from trainer_classification.models.speednet import SpeedNet, whiten
from trainer_classification.optim import muon
from trainer_classification.optim.muon import Muon, orthogonalize, parameter_groups
from trainer_classification.optim.parameter_groups import build_optimizer, set_learning_rate
from trainer_classification.plan import Plan, Policy
from trainer_classification.recipes import RECIPES, SPEED_RECIPES, recipe_for, recipe_kind
from trainer_classification.training import resolve
from trainer_classification.training.initial_weights import whiten_first_layer
from trainer_classification.training.metrics import Metrics
from trainer_classification.training.start_checkpoint import StartCheckpoint
from trainer_classification.training.step import Step

CPU = torch.device("cpu")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [18, 32, 45, 64, 128, 224])
def test_any_size_and_channels_give_nearly_equal_logits_at_first(channels, size):
    torch.manual_seed(0)
    logits = build("speednet", 7, channels, size)(torch.randn(4, channels, size, size))
    assert logits.shape == (4, 7)
    assert logits.abs().max() < 1


def test_an_image_costs_less_than_the_half_gflop_that_was_promised():
    model = build("speednet", 100, 3, 32)
    assert 2 * count_macs(model, 3, 32) < 0.5e9
    assert count_parameters(model) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("size", [64, 128, 192, 256])
def test_a_large_image_is_whitened_in_as_many_patches_as_a_small_one_and_costs_about_as_much(size):
    seen = []
    model = build("speednet", 10, 3, size)
    model.whiten.register_forward_hook(lambda *call: seen.append(call[-1].shape[2:]))
    model(torch.zeros(1, 3, size, size))
    assert seen == [(32, 32)]
    assert model.whiten.out_channels % 8 == 0
    assert count_macs(model, 3, size) < 5 * count_macs(build("speednet", 10, 3, 32), 3, 32)


def test_convolutions_start_as_the_identity_and_norms_have_a_bias_alone():
    model = build("speednet", 10, 3, 32)
    x = torch.randn(1, 24, 9, 9)
    torch.testing.assert_close(model.groups[0].conv1(x)[:, :24], x)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "groups.0.norm1.bias" in trained
    assert not {"groups.0.norm1.weight", "whiten.weight"} & trained


def correlated_images(count=64, channels=3):
    """Neighbouring pixels and channels alike, as in photographs."""
    images = torch.randn(count, 1, 20, 20, generator=torch.Generator().manual_seed(0)).repeat(1, channels, 1, 1)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return nn.functional.avg_pool2d(images + 0.5 * noise, 3, 1)


@pytest.mark.parametrize(("channels", "stride"), [(1, 1), (3, 1), (1, 3)])
def test_whitened_outputs_are_uncorrelated_with_variance_one(channels, stride):
    images, model = correlated_images(channels=channels), SpeedNet(10, channels, stride=stride)
    whiten(model, images)
    out = model.whiten(images).permute(0, 2, 3, 1).flatten(0, 2)
    half = out.shape[1] // 2
    torch.testing.assert_close(out[:, half:], -out[:, :half])
    covariance = out[:, :half].T @ out[:, :half] / len(out)
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-3
    assert covariance.diag().max() < 1.0001
    assert covariance.diag().min() > 0.8  # the noise term takes a little from the faintest direction


def test_every_rank_and_run_whitens_by_the_same_images_in_either_layout():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 20, 3), np.uint8)
    manifest = type("Manifest", (), {"mean": [0.5] * 3, "std": [0.3] * 3})
    plan, kept = Plan(30, 3, Policy()), []
    for images, layout in ((pixels, "HWC"), (pixels.swapaxes(1, 2), "WHC")):
        model = build("speednet", 2, 3, 32)
        store = ArrayStore(images, np.zeros(30, np.int64), np.full((30, 2), 20, np.int32), layout)
        whiten_first_layer(model, store, manifest, plan)
        kept.append(model.whiten.weight.clone())
    torch.testing.assert_close(*kept)
    assert not torch.equal(kept[0], build("speednet", 2, 3, 32).whiten.weight)
    assert kept[0].abs().max() > 0.6  # random weights are below 0.29


@pytest.mark.parametrize("shape", [(8, 8), (6, 40), (40, 6)])
def test_orthogonalising_brings_all_singular_values_near_one_and_keeps_the_directions(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    result = orthogonalize(matrix, rounds=8)
    values = u.T @ result @ vt.T
    assert ((values.diag() > 0.5) & (values.diag() < 1.3)).all()
    assert (values - values.diag().diag()).abs().max() < 1e-3
    assert s.max() / s.min() > 1.5


def test_orthogonalising_is_that_of_torch():
    from torch.optim._muon import _zeropower_via_newtonschulz

    matrix = torch.randn(16, 50, generator=torch.Generator().manual_seed(3))
    theirs = _zeropower_via_newtonschulz(matrix, (3.4445, -4.7750, 2.0315), 3, 1e-7)
    torch.testing.assert_close(orthogonalize(matrix), theirs.float(), atol=0.05, rtol=0.05)  # theirs is in bf16
    ours = orthogonalize(matrix, dtype=torch.bfloat16)
    torch.testing.assert_close(ours, theirs.float(), atol=0.02, rtol=0.02)


def test_the_products_of_muon_have_the_dtype_of_the_step(monkeypatch):
    seen = []
    monkeypatch.setattr(muon, "orthogonalize", lambda matrix, dtype: seen.append(dtype) or matrix)
    model = build("speednet", 2, 3, 32, 16)
    for dtype in (None, torch.bfloat16):
        optimizer = build_optimizer(model, SPEED_RECIPES["cifar100"], dtype)
        model(torch.zeros(2, 3, 32, 32)).sum().backward()
        optimizer.step()
    assert seen == 6 * [None] + 6 * [torch.bfloat16]


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3))


def gradients(model, seed):
    x = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(seed))
    model.zero_grad()
    nn.functional.cross_entropy(model(x), torch.arange(5) % 3).backward()


def test_three_steps_are_those_of_a_plain_reference():
    ours, reference = small(), small()
    optimizer = Muon(parameter_groups(ours, 0.6, 0.01), lr=0.1)
    buffers = {}
    for number in range(3):
        set_learning_rate(optimizer, 0.1 / (number + 1))
        gradients(ours, number)
        optimizer.step()
        gradients(reference, number)
        for name, p in reference.named_parameters():
            rate, momentum = {4: (1.0, 0.6), 2: (0.085, 0.85), 1: (440.0, 0.85)}[p.ndim]
            grad = p.grad if p.ndim == 4 else p.grad + 0.01 / rate * p.data
            buffers[name] = momentum * buffers.get(name, 0) + grad
            update = grad + momentum * buffers[name]
            if p.ndim == 4:
                p.data *= 2 / p.data.norm()
                update = orthogonalize(update.reshape(4, -1)).reshape(p.shape)
            p.data -= 0.1 / (number + 1) * rate * update
    for p, q in zip(ours.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("overflow", [False, True])
def test_under_a_scaler_it_unscales_and_skips_an_overflow_itself(overflow):
    plain, scaled = small(), small()
    steps = [Muon(parameter_groups(model, 0.6, 0.01), lr=0.1) for model in (plain, scaled)]
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for number in range(2):
        gradients(plain, number)
        gradients(scaled, number)
        for p in scaled.parameters():
            p.grad *= 1024
        if number == 1 and overflow:
            scaled[0].weight.grad[0, 0] = float("inf")
        else:
            steps[0].step()
        scaler.scale(torch.ones(()))  # it makes its scale when first used
        scaler.step(steps[1])
        scaler.update(1024.0)
    for p, q in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(p, q)
        torch.testing.assert_close(steps[0].state[p]["momentum_buffer"], steps[1].state[q]["momentum_buffer"])


def test_its_state_comes_back_from_a_checkpoint():
    torch.manual_seed(0)
    first, second = small(), small()
    optimizers = [Muon(parameter_groups(model, 0.6, 0.01), lr=0.1) for model in (first, second)]
    gradients(first, 0)
    optimizers[0].step()
    second.load_state_dict(first.state_dict())
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    for model, optimizer in zip((first, second), optimizers, strict=True):
        gradients(model, 1)
        optimizer.step()
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)


def test_the_speed_recipe_learns_bright_from_dark():
    torch.manual_seed(0)
    recipe = dataclasses.replace(SPEED_RECIPES["cifar10"], learning_rate=0.05)
    model = build("speednet", 2, 3, 32)
    labels = torch.arange(8) % 2
    images = (torch.randint(0, 100, (8, 20, 20, 3)) + 150 * labels[:, None, None, None]).to(torch.uint8)
    step = Step(model, build_optimizer(model, recipe), Normalize([0.5] * 3, [0.25] * 3, CPU), label_smoothing=0.0)
    set_learning_rate(step.optimizer, recipe.learning_rate)
    losses = [float(step(Batch(images, labels, torch.arange(8), 8), i, Metrics(CPU))) for i in range(8)]
    assert losses[-1] < 0.5 * losses[0]


def test_muon_is_refused_for_a_network_it_has_no_rates_for():
    with pytest.raises(ValueError, match="--optimizer muon has learning rates for speednet only"):
        build_optimizer(build("resnet-small", 2, 1, 28, 8), dataclasses.replace(RECIPES["mnist"], optimizer="muon"))


@pytest.mark.parametrize(
    ("options", "name", "on_cpu", "kind"),
    [
        ({}, "cifar100", True, "speed"),
        ({}, "cifar100", False, "standard"),
        ({"model": "resnet-small"}, "cifar10", True, "standard"),
        ({"optimizer": "sgd"}, "cifar10", True, "standard"),
        ({"recipe": "speed"}, "cifar10", False, "speed"),
        ({"recipe": "standard"}, "cifar10", True, "standard"),
        ({}, "mnist", True, "standard"),
        ({}, "caltech-101", True, "speed"),
        ({"weights": "imagenet"}, "caltech-101", True, "standard"),
    ],
)
def test_auto_takes_the_speed_recipe_on_a_cpu_unless_another_network_is_asked_for(options, name, on_cpu, kind):
    assert recipe_kind(TrainConfig(**options), name, on_cpu) == kind


def test_the_speed_recipe_is_found_and_said_to_be_missing():
    recipe, reason = recipe_for("cifar100", 32, 3, 50_000, kind="speed")
    assert (recipe.model, recipe.optimizer, reason) == ("speednet", "muon", "speed recipe of cifar100")
    with pytest.raises(ValueError, match="for photographs, cifar10 and cifar100, not for mnist"):
        recipe_kind(TrainConfig(recipe="speed"), "mnist", on_cpu=True)


def test_own_photographs_have_a_speed_recipe_and_small_images_have_none():
    def kind_of(are_photographs, on_cpu=True, **options):
        return recipe_kind(TrainConfig(**options), "own", on_cpu, are_photographs=are_photographs)

    assert kind_of(True) == "speed"
    assert kind_of(True, on_cpu=False) == "standard"
    assert kind_of(True, on_cpu=False, recipe="speed") == "speed"
    assert kind_of(True, model="resnet18") == "standard"
    assert kind_of(False) == "standard"
    with pytest.raises(ValueError, match="not for own"):
        kind_of(False, recipe="speed")


@pytest.mark.parametrize(("count", "epochs", "batch_size"), [(30, 40, 8), (400, 40, 50), (60_000, 10, 128)])
def test_the_speed_recipe_of_photographs_fits_their_number(count, epochs, batch_size):
    recipe, reason = recipe_for("own", 96, 3, count, resized=True, kind="speed")

    assert (recipe.model, recipe.epochs, recipe.batch_size, recipe.image_size) == ("speednet", epochs, batch_size, 96)
    assert recipe.policy == SPEED_RECIPES["caltech-101"].policy
    assert reason == f"speed recipe, {count} photographs"


def test_images_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match="18 px and more, not of 17 px"):
        build("speednet", 10, 3, 17)


def test_a_width_that_would_break_the_eights_is_refused():
    with pytest.raises(ValueError, match="width is 24, but speednet needs a multiple of 16"):
        build("speednet", 10, 1, 28, 24)


def formats_to_prepare(monkeypatch, config, device):
    """What a training of caltech-101 on such a device has prepared."""
    monkeypatch.setattr(resolve, "choose_device", lambda _: (torch.device(device), ""))
    monkeypatch.setattr(resolve, "choose_precision", lambda *_: (None, ""))
    monkeypatch.setattr(registry, "installed", lambda _: True)
    layout = ArrayLayout(160, True, 3)
    dataset = SimpleNamespace(name="caltech-101", layout=layout, count=10, are_photographs=False)
    return resolve.resolve(config, dataset).formats


@pytest.mark.parametrize(
    ("options", "device", "formats"),
    [
        ({}, "cpu", ("tar", "array")),
        ({}, "cuda", ("tar",)),
        ({"recipe": "speed"}, "cuda", ("tar", "array")),
        ({"model": "speednet"}, "cuda", ("tar", "array")),
        ({"model": "resnet18"}, "cpu", ("tar",)),
    ],
)
def test_the_array_is_prepared_if_it_whitens_the_first_layer(monkeypatch, options, device, formats):
    assert formats_to_prepare(monkeypatch, TrainConfig(loader="dali", **options), device) == formats


def test_planes_whiten_the_first_layer_too(monkeypatch):
    assert formats_to_prepare(monkeypatch, TrainConfig(loader="planes"), "cpu") == ("planes",)


def picked(network):
    return StartCheckpoint("archive", "the picked checkpoint", Path("a.zip"), network=network)


def test_the_array_is_prepared_for_the_speednet_that_the_user_picked(monkeypatch):
    monkeypatch.setattr(resolve, "choose_start", lambda _: picked("speednet"))
    assert formats_to_prepare(monkeypatch, TrainConfig(loader="dali"), "cuda") == ("tar", "array")


@pytest.mark.parametrize(
    ("options", "network"),
    [({}, "resnet18"), ({"model": "resnet34"}, "resnet34"), ({"recipe": "speed"}, "auto")],
)
def test_a_picked_network_gives_way_to_what_the_user_asked_for(monkeypatch, options, network):
    monkeypatch.setattr(resolve, "choose_start", lambda _: picked("resnet18"))
    layout = ArrayLayout(160, True, 3)
    dataset = SimpleNamespace(name="caltech-101", layout=layout, count=10, are_photographs=False)
    assert resolve.resolve(TrainConfig(device="cpu", **options), dataset).network == network
