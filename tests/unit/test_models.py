"""Networks: torchvision's names and outputs, documented sizes, an identity at the start."""

from pathlib import Path

import pytest
import torch

from trainer_classification.models import build, count_macs, count_parameters, table

DOCS = Path(__file__).parents[2] / "docs/models.md"


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_weights_of_torchvision_load_and_give_its_outputs(name):
    import torchvision

    theirs = getattr(torchvision.models, name)(num_classes=7).eval()
    ours = build(name, 7, 3, 96).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["resnet-small", "resnet-digits", "resnet18", "resnet50"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 33])
def test_any_size_and_channels_give_logits(name, channels, size):
    assert build(name, 5, channels, size)(torch.randn(2, channels, size, size)).shape == (2, 5)


def test_small_images_keep_their_pixels_in_the_stem():
    assert build("resnet18", 5, 3, 32).conv1.stride == (1, 1)
    assert build("resnet18", 5, 3, 64).conv1.stride == (2, 2)


def test_digits_are_seen_without_two_pixels_of_the_border():
    model = build("resnet-digits", 5, 1, 28).eval()
    images = torch.randn(3, 1, 28, 28)
    framed = torch.randn(3, 1, 28, 28)
    framed[:, :, 2:26, 2:26] = images[:, :, 2:26, 2:26]
    moved = images.clone()
    moved[:, :, 2, 2:26] += 1

    assert torch.equal(model(framed), model(images))
    assert not torch.equal(model(moved), model(images))


def test_the_last_norm_of_every_block_starts_at_zero_and_channels_come_in_eights():
    model = build("resnet50", 10, 3, 32)
    last = [p for name, p in model.named_parameters() if name.endswith("bn3.weight")]
    assert len(last) == 16
    assert all((p == 0).all() for p in last)
    assert all(p.shape[0] % 8 == 0 for n, p in model.named_parameters() if "conv" in n)


def test_multiply_adds_and_parameters_are_the_published_ones():
    assert count_parameters(build("resnet50", 1000, 3, 224)) == 25_557_032
    assert count_macs(build("resnet18", 1000, 3, 224), 3, 224) / 1e9 == pytest.approx(1.81, abs=0.01)
    assert count_macs(build("resnet50", 1000, 3, 224), 3, 224) / 1e9 == pytest.approx(4.09, abs=0.01)


def test_the_documented_table_is_the_one_the_command_prints():
    assert table() in DOCS.read_text()


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(ValueError, match="resnet-small, resnet-digits, resnet18"):
        build("vgg", 10, 3, 32)
