"""The path of a batch on a GPU without one: fake tensors carry device, type and strides, and no data.

What they cannot show: speed, memory, and the numbers; tests/gpu does.
"""

import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from trainer_classification.augment import device as on_device
from trainer_classification.augment.mixup import Mixing
from trainer_classification.models import build
from trainer_classification.models.normalize import Normalize
from trainer_classification.plan import Policy
from trainer_classification.training.tta import logits_over

CUDA = torch.device("cuda", 0)
ROWS, SIDE = 16, 40
POLICIES = {
    "shift": (Policy(crop="shift", shift=3, flip="random", cutout=4), SIDE, "HWC"),
    "zero": (Policy(crop="shift", shift=3, pad="zero", flip="alternating"), SIDE, "HWC"),
    "crop": (Policy(crop="resized", flip="random"), 32, "WHC"),
    "color": (Policy(crop="resized", color_jitter=0.4, erasing=0.5, rand_augment=9), 32, "WHC"),
}
NETWORKS = ["resnet-small", "resnet18", "resnet50"]
DTYPES = [None, torch.float16]  # for bf16 torch asks the GPU which convolution it has, and lays out its output by that


@pytest.fixture
def fake(monkeypatch):
    """Fake tensors on cuda:0, with autocast that believes in it."""
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.amp.autocast_mode.torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    with FakeTensorMode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def handed_over(tensor, shape, dtype):
    assert tensor.device == CUDA
    assert tuple(tensor.shape) == shape
    assert tensor.dtype == dtype


def augmented(policy, size, layout, channels=3):
    images = torch.empty(100, SIDE, SIDE, channels, dtype=torch.uint8, device=CUDA)
    index = torch.zeros(ROWS, dtype=torch.int64, device=CUDA)
    kinds = {
        "box": ((4,), torch.float32),
        "flip": ((), torch.bool),
        "shift": ((2,), torch.int8),
        "cutout": ((2,), torch.float32),
        "color": ((3,), torch.int16),
        "erased": ((4,), torch.float32),
        "operations": ((2 if policy.rand_augment else 0, 12), torch.int32),
    }
    draws = on_device.DeviceDraws(
        **{name: torch.empty((ROWS, *shape), dtype=kind, device=CUDA) for name, (shape, kind) in kinds.items()}
    )
    return on_device.augment(images, index, draws, policy, size, layout)


@pytest.fixture(scope="module")
def networks():
    """(model, its tensors' sizes, strides and types), made before anything is fake."""
    models = {name: build(name, 10, 3, 32) for name in NETWORKS}
    return {
        name: (model, {key: (value.size(), value.stride(), value.dtype) for key, value in model.state_dict().items()})
        for name, model in models.items()
    }


def on_the_gpu(weights):
    return {
        key: torch.empty_strided(size, stride, dtype=dtype, device=CUDA)
        for key, (size, stride, dtype) in weights.items()
    }


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_hands_over_contiguous_uint8(fake, name, channels):
    policy, size, layout = POLICIES[name]
    batch = augmented(policy, size, layout, channels)
    handed_over(batch, (ROWS, size, size, channels), torch.uint8)
    assert batch.is_contiguous()


def test_normalising_hands_over_float_in_channels_last_as_a_view_of_the_layout(fake):
    out = Normalize([0.5] * 3, [0.2] * 3, CUDA)(augmented(*POLICIES["crop"]))
    handed_over(out, (ROWS, 3, 32, 32), torch.float32)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert not out.is_contiguous()


def test_mixing_keeps_channels_last_and_takes_its_draws_to_the_device(fake, monkeypatch):
    monkeypatch.setattr(Mixing, "draws", lambda *_: torch.empty(ROWS, 5))
    monkeypatch.setattr(torch, "from_numpy", lambda drawn: drawn)
    images = torch.empty(ROWS, 3, 32, 32, device=CUDA).contiguous(memory_format=torch.channels_last)
    mixed, targets = Mixing(0, 0.2, 1.0)(images, torch.zeros(ROWS, dtype=torch.int64, device=CUDA), 0)
    handed_over(mixed, (ROWS, 3, 32, 32), torch.float32)
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    handed_over(targets.others, (ROWS,), torch.int64)
    handed_over(targets.share, (ROWS,), torch.float32)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_convolution_and_norm_sees_channels_last_in_the_type_of_autocast(networks, fake, name, dtype):
    """A layer that falls back to NCHW costs a third of a V100's speed, and nothing else shows it."""
    model, weights = networks[name]
    seen = []

    def look(module, inputs, output):
        seen.append(module)
        for tensor in (inputs[0], output):
            handed_over(tensor, tuple(tensor.shape), dtype or torch.float32) if tensor is output else None
            assert tensor.is_contiguous(memory_format=torch.channels_last)

    for module in model.modules():
        module._forward_hooks.clear()
        if isinstance(module, torch.nn.Conv2d | torch.nn.BatchNorm2d):
            module.register_forward_hook(look)
    images = Normalize([0.5] * 3, [0.2] * 3, CUDA)(augmented(*POLICIES["crop"]))
    with torch.autocast("cuda", dtype, enabled=dtype is not None):
        logits = functional_call(model, on_the_gpu(weights), images)
        labels = torch.zeros(ROWS, dtype=torch.int64, device=CUDA)
        loss = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert len(seen) > 5
    handed_over(logits, (ROWS, 10), dtype or torch.float32)
    handed_over(loss, (), torch.float32)


@pytest.mark.parametrize("views", ["flip", "flip-translate"])
def test_the_views_of_test_time_augmentation_keep_channels_last(fake, views):
    class Watching(torch.nn.Module):
        def forward(self, x):
            assert x.is_contiguous(memory_format=torch.channels_last)
            return x.mean((2, 3))

    images = torch.empty(ROWS, 3, 32, 32, device=CUDA).contiguous(memory_format=torch.channels_last)
    handed_over(logits_over(Watching(), images, views), (ROWS, 3), torch.float32)
