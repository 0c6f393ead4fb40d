"""The kernels on the CPU and the device operations against the slow definition."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from helpers import photograph
from trainer_classification.augment import cpu, device, reference
from trainer_classification.plan import Operation, Plan, Policy, draw_operations

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
    Policy(rand_augment=9),
    Policy(crop="shift", shift=2, flip="random", rand_augment=4, color_jitter=0.3, erasing=0.3),
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


def operation_of(kind):
    """One operation of a kind, of those that are drawn at magnitude 8."""
    drawn = draw_operations(np.random.default_rng(0), 400, 8).reshape(-1, 12)
    kinds = np.random.default_rng(0).integers(0, 12, (400, 2)).reshape(-1)
    return drawn[kinds == kind]


@pytest.mark.parametrize("fast", [cpu.augment, on_device])
@pytest.mark.parametrize("kind", Operation)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_operation_equals_the_reference_bit_for_bit(fast, kind, channels):
    policy = Policy(rand_augment=8)
    images, index, draws = images_and_draws(31, channels, policy)
    images = images // 2 + 40  # so that there is something to stretch
    draws = dataclasses.replace(draws, operations=operation_of(kind)[: len(index), None])
    expected = reference.augment(images, index, draws, policy, 31)
    np.testing.assert_array_equal(fast(images, index, draws, policy, 31), expected)
    is_plain = kind == Operation.IDENTITY or (kind == Operation.SATURATION and channels == 1)
    assert np.array_equal(expected, images[index]) == is_plain


def test_geometry_is_that_of_pillow():
    image = photograph(0, 48, 48)
    for kind in (Operation.SHEAR_X, Operation.SHEAR_Y, Operation.TRANSLATE_X, Operation.TRANSLATE_Y, Operation.ROTATE):
        operation = operation_of(kind)[0]
        a, b, c, d, dy, dx = (operation[:6] / 65536).tolist()
        # Pillow: x before y, from the corner.
        x = 24 - d * 24 - c * 24 + 48 * dx
        y = 24 - b * 24 - a * 24 + 48 * dy
        shown = Image.fromarray(image).transform(
            (48, 48), Image.Transform.AFFINE, (d, c, x, b, a, y), fillcolor=(7, 7, 7)
        )
        differs = (np.asarray(shown) != reference.operate(image, operation, 7)).any(2)
        assert differs.mean() < 0.02, kind  # pixels whose sources lie between two


def test_values_are_posterized_solarized_and_stretched_as_pillow_does():
    image = photograph(0, 24, 24) // 2 + 40
    picture = Image.fromarray(image)
    posterized = reference.operate(image, operation_of(Operation.POSTERIZE)[0], 0)
    assert np.array_equal(posterized, ImageOps.posterize(picture, 5))
    solarized = reference.operate(image, operation_of(Operation.SOLARIZE)[0], 0)
    assert np.array_equal(solarized, ImageOps.solarize(picture, 256 - 205))
    stretched = reference.operate(image, operation_of(Operation.AUTOCONTRAST)[0], 0)
    assert np.abs(stretched.astype(int) - np.asarray(ImageOps.autocontrast(picture))).max() <= 1


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
