"""The kernels on the CPU and the device operations against the slow definition."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from helpers import photograph
from trainer_classification.augment import cpu, device, reference
from trainer_classification.plan import Plan, Policy

SHIFTS = [
    Policy(),
    Policy(flip="random"),
    Policy(crop="shift", shift=4, pad="reflect", flip="random"),
    Policy(crop="shift", shift=3, pad="zero", flip="alternating"),
    Policy(crop="shift", shift=2, pad="reflect", flip="none", cutout=5),
    Policy(crop="shift", shift=2, pad="zero", flip="random", cutout=40),
]
COLORS = [
    Policy(color_jitter=0.4),
    Policy(crop="shift", shift=2, flip="random", color_jitter=1.0, cutout=3, erasing=0.7),
    Policy(erasing=1.0),
]
CROPS = [
    Policy(crop="resized", flip="random"),
    Policy(crop="resized", area=(0.01, 0.2), aspect=(0.2, 5.0), flip="none", cutout=6),
    Policy(crop="none", flip="random"),
]
# Pillow takes x before y and rounds between; the other order and 8-bit weights move noise by up to 0.5 on average.
MEAN_TOLERANCE, LARGEST_TOLERANCE = 0.6, 6


def images_and_draws(side, channels, policy, count=9, batch=7, seed=0):
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, side, side, channels), dtype=np.uint8)
    plan = Plan(count, seed, policy, random.integers(5, 500, (count, 2)))
    index = plan.order(0)[:batch]
    return images, index, plan.draws(0)[index]


def on_device(images, index, draws, policy, size, layout="HWC"):
    there = torch.device("cpu")
    args = torch.from_numpy(images), torch.from_numpy(index), device.to_device(draws, there)
    return device.augment(*args, policy, size, layout).numpy()


@pytest.mark.parametrize("fast", [cpu.augment, on_device])
@pytest.mark.parametrize("policy", SHIFTS)
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("side", [5, 16, 32, 37])
def test_shift_flip_and_cutout_equal_the_reference_bit_for_bit(fast, policy, channels, side):
    images, index, draws = images_and_draws(side, channels, policy)
    expected = reference.augment(images, index, draws, policy, side)
    np.testing.assert_array_equal(fast(images, index, draws, policy, side), expected)


@pytest.mark.parametrize("fast", [cpu.augment, on_device])
@pytest.mark.parametrize("policy", COLORS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [5, 32])
def test_colors_and_erased_boxes_equal_the_reference_bit_for_bit(fast, policy, channels, side):
    images, index, draws = images_and_draws(side, channels, policy)
    expected = reference.augment(images, index, draws, policy, side)
    assert not np.array_equal(expected, images[index])
    np.testing.assert_array_equal(fast(images, index, draws, policy, side), expected)


@pytest.mark.parametrize("kind", ["Brightness", "Contrast", "Color"])
@pytest.mark.parametrize("factor", [0, 64, 256, 300, 512])
def test_a_color_is_changed_as_pillow_changes_it(kind, factor):
    image = photograph(3, 24, 32)
    factors = np.full(3, 256, np.int16)
    factors[["Brightness", "Contrast", "Color"].index(kind)] = factor
    expected = getattr(ImageEnhance, kind)(Image.fromarray(image)).enhance(factor / 256)
    difference = np.abs(reference.jitter_colors(image, factors).astype(int) - np.asarray(expected))
    assert difference.max() <= 2  # Pillow rounds the gray image, and its mean, in another way
    if factor == 256:
        assert difference.max() == 0


def test_an_erased_box_is_blank_and_nothing_else_is_changed():
    policy = Policy(erasing=1.0)
    images, index, draws = images_and_draws(40, 3, policy)
    images[images == policy.fill] += 1
    shown = reference.augment(images, index, draws, policy, 40)
    for image, before, (top, left, bottom, right) in zip(shown, images[index], draws.erased, strict=True):
        blank = (image == policy.fill).all(2)
        assert np.array_equal(image[~blank], before[~blank])
        assert blank.sum() == pytest.approx(1600 * (bottom - top) * (right - left), abs=100)
        assert blank.any(0).sum() * blank.any(1).sum() == blank.sum(), "a box"


@pytest.mark.parametrize("fast", [cpu.augment, on_device])
@pytest.mark.parametrize("policy", CROPS)
@pytest.mark.parametrize("layout", ["HWC", "WHC"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("side", "size"), [(40, 32), (33, 32), (21, 40), (90, 24)])
def test_resized_crops_are_those_of_pillow_up_to_rounding(fast, policy, layout, channels, side, size):
    images, index, draws = images_and_draws(side, channels, policy)
    expected = reference.augment(images, index, draws, policy, size, layout).astype(int)
    difference = np.abs(fast(images, index, draws, policy, size, layout) - expected)
    assert difference.mean() < MEAN_TOLERANCE
    assert difference.max() <= LARGEST_TOLERANCE


def test_both_layouts_show_the_same_image():
    images, index, draws = images_and_draws(40, 3, CROPS[0])
    x_first = np.ascontiguousarray(images.swapaxes(1, 2))
    for augment in (reference.augment, cpu.augment, on_device):
        upright = augment(images, index, draws, CROPS[0], 32, "HWC").astype(int)
        assert np.abs(augment(x_first, index, draws, CROPS[0], 32, "WHC") - upright).max() <= 2


@pytest.mark.parametrize("fast", [cpu.augment, on_device])
def test_images_that_are_not_contiguous_or_read_only_are_read_right(fast):
    images, index, draws = images_and_draws(16, 3, SHIFTS[2], count=20)
    images = images[::2]
    index = index % len(images)
    expected = reference.augment(images, index, draws, SHIFTS[2], 16)
    np.testing.assert_array_equal(fast(images.copy(), index, draws, SHIFTS[2], 16), expected)


def test_a_padding_row_changes_no_other_row_and_reads_no_memory_outside():
    images, index, draws = images_and_draws(16, 3, SHIFTS[2])
    padded = index.copy()
    padded[-1] = -1
    for policy, size in ((SHIFTS[2], 16), (CROPS[0], 12)):
        whole = cpu.augment(images, index, draws, policy, size)
        np.testing.assert_array_equal(cpu.augment(images, padded, draws, policy, size)[:-1], whole[:-1])


def test_out_is_written_in_place_and_returned():
    images, index, draws = images_and_draws(16, 3, SHIFTS[2])
    out = np.empty((len(index), 16, 16, 3), np.uint8)
    assert cpu.augment(images, index, draws, SHIFTS[2], 16, out=out) is out
    np.testing.assert_array_equal(out, reference.augment(images, index, draws, SHIFTS[2], 16))


@pytest.mark.parametrize("augment", [reference.augment, cpu.augment])
def test_a_shift_at_another_size_than_stored_says_how_to_prepare(augment):
    images, index, draws = images_and_draws(16, 3, SHIFTS[2])
    with pytest.raises(ValueError, match="--image-size 12"):
        augment(images, index, draws, SHIFTS[2], 12)


@pytest.mark.parametrize("augment", [reference.augment, cpu.augment, on_device])
@pytest.mark.parametrize("pad", ["reflect", "zero"])
@pytest.mark.parametrize("shift", [16, 64])
def test_a_shift_by_all_of_an_image_is_refused_before_it_is_made(augment, pad, shift):
    policy = Policy(crop="shift", shift=shift, pad=pad)
    images, index, draws = images_and_draws(16, 3, policy)
    with pytest.raises(ValueError, match=f"Images of 16 px cannot be shifted by {shift}: use --shift 15 or less"):
        augment(images, index, draws, policy, 16)


def test_a_shift_by_all_but_one_pixel_is_made_as_the_reference_makes_it():
    for pad in ("reflect", "zero"):
        policy = Policy(crop="shift", shift=15, pad=pad, flip="random")
        images, index, draws = images_and_draws(16, 3, policy)
        draws.shift[:4] = [(15, 15), (-15, -15), (15, -15), (-15, 0)]
        expected = reference.augment(images, index, draws, policy, 16)
        for fast in (cpu.augment, on_device):
            np.testing.assert_array_equal(fast(images, index, draws, policy, 16), expected)


def test_a_crop_of_one_pixel_and_one_of_the_whole_image_stay_inside():
    policy = Policy(crop="resized")
    images, index, draws = images_and_draws(24, 3, policy)
    draws.box[0] = (23 / 24, 23 / 24, 1 / 24, 1 / 24)
    draws.box[1] = (0, 0, 1, 1)
    expected = reference.augment(images, index, draws, policy, 16).astype(int)
    for fast in (cpu.augment, on_device):
        assert np.abs(fast(images, index, draws, policy, 16) - expected).max() <= LARGEST_TOLERANCE
