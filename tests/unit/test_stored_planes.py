"""Photographs stored as Y, Cb and Cr at 4:2:0: made and cropped as float64 arithmetic says."""

import numpy as np
import pytest
import torch

from helpers import encoded, photograph
from trainer_classification.augment import cpu, device, reference
from trainer_classification.data.decode import decode_for_resize, plain_jpeg, resize_to_planes
from trainer_classification.kernels import planes
from trainer_classification.plan import Plan, Policy

CROP = Policy(crop="resized", area=(0.1, 1.0), flip="random")
FROM_RGB = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def exact_planes(pixels):
    """Y, Cb and Cr of full size in float64: [3, H, W]."""
    return np.einsum("pc,hwc->phw", FROM_RGB, pixels.astype(float)) + np.array([0, 128, 128])[:, None, None]


def exact_rgb(luma, blue, red):
    b, r = blue - 128, red - 128
    return np.stack([luma + 1.402 * r, luma - 0.344136 * b - 0.714136 * r, luma + 1.772 * b], 2).clip(0, 255)


def triangle(start, length, side, size):
    """Weights of Pillow's antialiased bilinear filter: [size, side]."""
    scale = length / size
    center = start + (np.arange(size) + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs(np.arange(side) + 0.5 - center[:, None]) / max(scale, 1))
    return weights / weights.sum(1, keepdims=True)


def cubic(length, size):
    """Weights of a whole axis by Keys' cubic of 0.8 of the width: [size, length]."""
    scale = length / size
    x = np.abs(np.arange(length) + 0.5 - (np.arange(size)[:, None] + 0.5) * scale) / max(0.8 * scale, 1)
    weights = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0))
    return weights / weights.sum(1, keepdims=True)


def split(stored, side):
    half = side // 2
    parts = np.split(stored, [side**2, side**2 + half**2])
    return [part.reshape(width, width) for part, width in zip(parts, (side, half, half), strict=True)]


def exact_crop(stored, side, box, flip, size):
    """The crop of stored planes in float64, not rounded: [T, T, 3]."""
    x, y, w, h = box.astype(float)
    crops = []
    for plane in split(stored, side):
        width = len(plane)
        across = triangle(x * width, w * width, width, size)
        down = triangle(y * width, h * width, width, size)
        crops.append(down @ plane.T.astype(float) @ across.T)
    crop = exact_rgb(*crops)
    return crop[:, ::-1] if flip else crop


def test_colors_become_planes_as_libjpeg_rounds_them():
    colors = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    colors[:, :8] = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]] * 2) ^ ([[0]] * 4 + [[255]] * 4)
    found, buffer = planes.from_rgb(colors)
    expected = exact_planes(colors)
    assert (found.width, found.height, found.has_chroma) == (256, 256, 1)
    assert np.abs(buffer.reshape(3, 256, 256) - expected).max() <= 0.502  # libjpeg computes in 16 bits of fraction


def test_a_gray_image_has_luma_alone():
    gray = photograph(1, 60, 50, 1)
    stored = resize_to_planes(gray, 40)
    assert stored.shape == (1600,)
    colored = resize_to_planes(np.repeat(gray, 3, 2), 40)
    assert np.array_equal(colored[:1600], stored)
    assert (colored[1600:] == 128).all()


@pytest.mark.parametrize(("height", "width", "side"), [(180, 240, 166), (150, 100, 84), (64, 64, 64)])
def test_planes_are_those_of_the_cubic(height, width, side):
    pixels = photograph(height, height, width, 3)
    found = split(resize_to_planes(pixels, side), side)
    for plane, whole in zip(found, np.round(exact_planes(pixels)), strict=True):
        expected = cubic(width, len(plane)) @ whole.T @ cubic(height, len(plane)).T
        difference = np.abs(plane - expected.clip(0, 255))
        assert difference.max() <= 4  # weights have 7 bits
        assert difference.mean() <= 0.6


# A panorama, one that Pillow resizes, one whose chroma shrinks most, and a tiny one.
odd_shapes = pytest.mark.parametrize(
    ("height", "width", "side"), [(900, 60, 42), (1300, 1300, 166), (40, 400, 84), (3, 5, 20)]
)


@odd_shapes
def test_odd_shapes_keep_their_mean(height, width, side):
    pixels = photograph(2, height, width, 3)
    stored = resize_to_planes(pixels, side)
    assert stored.shape == (side * side * 3 // 2,)
    for plane, whole in zip(split(stored, side), exact_planes(pixels), strict=True):
        assert abs(plane.mean() - whole.mean()) < 3


@odd_shapes
def test_odd_shapes_are_stored_the_right_way_round(height, width, side):
    """Mirrored, ramps differ by 30 and more."""
    pixels = np.full((height, width, 3), 128, np.uint8)
    pixels[..., 0] = np.linspace(20, 220, width)
    pixels[..., 1] = np.linspace(20, 220, height)[:, None]
    for plane, whole in zip(split(resize_to_planes(pixels, side), side), exact_planes(pixels), strict=True):
        size = len(plane)
        expected = triangle(0, width, width, size) @ whole.T @ triangle(0, height, height, size).T
        assert np.abs(plane - expected).max() < 2


def test_few_pixels_become_the_colors_that_many_do():
    many = np.random.default_rng(0).integers(0, 256, (3, 16, 16), np.uint8)
    colors = np.empty((16, 16, 3), np.uint8)
    planes.convert_to_rgb(many, colors)
    for y, x in np.ndindex(4, 4):
        few = np.ascontiguousarray(many[:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4])
        found = np.empty((4, 4, 3), np.uint8)
        planes.convert_to_rgb(few, found)
        assert np.array_equal(found, colors[4 * y : 4 * y + 4, 4 * x : 4 * x + 4])


def test_a_jpeg_keeps_its_own_chroma():
    """Its planes differ from those of its decoded colors by the rounding of these alone."""
    data = encoded(photograph(3, 200, 300, 3), "JPEG", quality=95)
    image = decode_for_resize(plain_jpeg(data), data)
    direct, again = image.resize_to_planes(166), resize_to_planes(image.pixels, 166)
    assert np.abs(direct.astype(int) - again).mean() < 1


@pytest.fixture(scope="module", params=[(166, 128), (42, 32), (58, 56), (20, 33)], ids=str)
def stored(request):
    """24 images of a side, and the draws of their crops of a size."""
    side, size = request.param
    images = np.stack([resize_to_planes(photograph(seed, 130, 170, 3), side) for seed in range(24)])
    draws = Plan(24, 5, CROP, np.tile([170, 130], (24, 1))).draws(0)[np.arange(24)]
    return images, draws, side, size


def check(crops, stored, most, mean):
    images, draws, side, size = stored
    exact = [exact_crop(images[i], side, draws.box[i], draws.flip[i], size) for i in range(len(images))]
    difference = np.abs(np.asarray(crops) - np.stack(exact))
    assert draws.flip.any()
    assert difference.max() <= most
    assert difference.mean() <= mean


def test_crops_by_the_kernel_are_those_of_float64(stored):
    images, draws, _, size = stored
    crops = cpu.augment(images, np.arange(24), draws, CROP, size, "YCC")
    check(crops, stored, 6, 0.75)


def test_crops_by_the_reference_are_those_of_float64(stored):
    images, draws, _, size = stored
    check(reference.augment(images, np.arange(24), draws, CROP, size, "YCC"), stored, 3.6, 0.65)


def test_crops_by_torch_are_those_of_float64(stored):
    images, draws, _, size = stored
    drawn = device.to_device(draws, torch.device("cpu"))
    crops = device.augment(torch.from_numpy(images), torch.arange(24), drawn, CROP, size, "YCC")
    check(crops.numpy(), stored, 0.6, 0.26)


def test_padding_rows_are_zero_and_rows_do_not_touch_each_other(stored):
    images, draws, _, size = stored
    index = np.arange(24)
    whole = cpu.augment(images, index, draws, CROP, size, "YCC")
    index[[0, 7, 23]] = -1
    some = cpu.augment(images, index, draws, CROP, size, "YCC")
    assert not some[[0, 7, 23]].any()
    assert np.array_equal(some[index >= 0], whole[index >= 0])


def test_planes_cannot_be_shifted():
    images = np.zeros((1, 40 * 40 * 3 // 2), np.uint8)
    draws = Plan(1, 0, Policy(crop="shift", shift=2)).draws(0)[np.arange(1)]
    with pytest.raises(ValueError, match="layout HWC, these are YCC"):
        cpu.augment(images, np.arange(1), draws, Policy(crop="shift", shift=2), 40, "YCC")
