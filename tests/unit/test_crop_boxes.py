"""Boxes of resized crops are those of the whole stream, whichever samples are asked for and by whichever code."""

import dataclasses
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_classification import crop_boxes, kernels
from trainer_classification.crop_boxes import TRIES, CropBoxes, random_floats
from trainer_classification.kernels import draws

KEY = (11, 3 << 32 | 5)
# Long and thin images, of which many need a second try or the fallback.
SIZES = np.random.default_rng(0).integers(1, 700, (40_000, 2)).astype(np.int32)
BOXES = CropBoxes(KEY, SIZES, (0.25, 1.0), (3 / 4, 4 / 3))


def stream(key=KEY):
    return np.random.Generator(np.random.Philox(key=np.array(key, np.uint64)))


def boxes_of_the_whole_stream(boxes):
    """The definition: all numbers of all samples at once, as torchvision's RandomResizedCrop uses them."""
    rows = np.arange(len(boxes.sizes))
    width, height = boxes.sizes.astype(np.float64).T
    u = stream(boxes.key).random((4, len(rows), TRIES), np.float32).astype(np.float64)

    area, aspect = boxes.area, boxes.aspect
    target_area = (area[0] + (area[1] - area[0]) * u[0]) * (width * height)[:, None]
    ratio = np.exp(np.log(aspect[0]) + np.log(aspect[1] / aspect[0]) * u[1])
    candidate_w = np.rint(np.sqrt(target_area * ratio))
    candidate_h = np.rint(np.sqrt(target_area / ratio))
    fits = (candidate_w >= 1) & (candidate_h >= 1)
    fits &= (candidate_w <= width[:, None]) & (candidate_h <= height[:, None])
    found = fits.any(axis=1)
    first = np.argmax(fits, axis=1)

    fallback_w = np.maximum(1, np.rint(np.minimum(width, height * aspect[1])))
    fallback_h = np.maximum(1, np.rint(np.minimum(height, width / aspect[0])))
    w = np.where(found, candidate_w[rows, first], fallback_w)
    h = np.where(found, candidate_h[rows, first], fallback_h)
    x = np.where(found, np.floor(u[2][rows, first] * (width - w + 1)), np.floor((width - w) / 2))
    y = np.where(found, np.floor(u[3][rows, first] * (height - h + 1)), np.floor((height - h) / 2))
    x, y = np.minimum(x, width - w), np.minimum(y, height - h)
    return np.stack([x / width, y / height, w / width, h / height], axis=1).astype(np.float32)


WHOLE = boxes_of_the_whole_stream(BOXES)


@given(count=st.integers(1, 3000), seed=st.integers(0, 2**31 - 1))
@settings(max_examples=30, deadline=None)
def test_a_compiled_permutation_is_numpys(count, seed):
    key = (seed, 7)
    order = np.arange(count)
    draws.permute(np.array(key, np.uint64), order)
    assert np.array_equal(order, stream(key).permutation(count))


def test_a_long_compiled_permutation_is_numpys():
    """Of a million: numbers that are refused, to be even, are rarer than one in a thousand."""
    order = np.arange(1_000_000)
    draws.permute(np.array(KEY, np.uint64), order)
    assert np.array_equal(order, stream().permutation(1_000_000))


@given(position=st.lists(st.integers(0, 5000), min_size=1, max_size=40), seed=st.integers(0, 2**31 - 1))
@settings(max_examples=30, deadline=None)
def test_any_number_of_a_stream_is_numpys(position, seed):
    key = (seed, 3 << 32 | 2)
    expected = stream(key).random(5001, np.float32)
    assert np.array_equal(random_floats(key, np.array(position)), expected[position])


def test_a_place_far_down_a_stream_is_numpys():
    far = stream()
    far.bit_generator.advance(10**9)
    assert np.array_equal(random_floats(KEY, 8 * 10**9 + np.arange(30)), far.random(30, np.float32))


@pytest.mark.parametrize("draw", [BOXES.__getitem__, BOXES.draw_with_numpy], ids=["compiled", "numpy"])
def test_boxes_are_those_of_the_whole_stream_in_any_order(draw):
    order = np.random.default_rng(1).permutation(len(SIZES))
    assert np.array_equal(draw(order), WHOLE[order])
    assert np.array_equal(draw(order[:3]), WHOLE[order[:3]])
    assert draw(order[:0]).shape == (0, 4)


def test_the_images_of_this_test_need_every_kind_of_box():
    first = BOXES._try(np.arange(len(SIZES)), SIZES.astype(np.float64), range(TRIES))[2]
    assert set(range(-1, 5)) <= set(first.tolist())


def test_without_numba_boxes_are_the_same(monkeypatch):
    monkeypatch.setitem(sys.modules, "trainer_classification.kernels.draws", None)
    monkeypatch.delattr(kernels, "draws", raising=False)
    assert crop_boxes.load_kernels() is None
    index = np.array([5, 0, 39_999])
    assert np.array_equal(BOXES[index], WHOLE[index])


def test_a_sample_has_another_box_in_another_epoch_and_with_another_count():
    other = dataclasses.replace(BOXES, key=(11, 3 << 32 | 6))
    assert not np.array_equal(other[np.arange(9)], BOXES[np.arange(9)])
