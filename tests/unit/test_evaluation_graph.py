"""The part of an exported graph that prepares images shows the network what `predict` shows it, byte for byte."""

import numpy as np
import pytest
import torch

from helpers import noise, photograph
from trainer_classification.exporting.axis_weights import photo_taps
from trainer_classification.exporting.evaluation_view import EvaluationView, _multiply
from trainer_classification.inference.preprocess import Preprocess
from trainer_classification.plan import central_boxes

KEPT = Preprocess(image_size=28, channels=3, array_size=28, resized=False)
WHOLE = Preprocess(image_size=64, channels=3, array_size=80, resized=True)
CENTER = Preprocess(image_size=64, channels=3, array_size=80, resized=True, eval_crop=0.875)
SMALL_REDUCTION = [(80, 80), (97, 141), (300, 225), (50, 64), (81, 320), (1, 3)]


def difference(preprocess, pixels):
    """What the graph shows less what `predict` shows."""
    expected = preprocess.make_batch([preprocess.load(pixels)], torch.device("cpu"))[0].int()
    found = EvaluationView(preprocess)(torch.from_numpy(pixels)[None])[0]
    assert torch.equal(found, found.round())
    return (found.permute(1, 2, 0).int() - expected).abs()


@pytest.mark.parametrize("size", SMALL_REDUCTION)
def test_a_photo_that_shrinks_little_is_the_same_to_the_byte(size):
    for pixels in (photograph(1, *size), noise(2, *size, 3)):
        assert difference(WHOLE, pixels).max() == 0


@pytest.mark.parametrize("fraction", [0.5, 0.8, 0.875, 1.0])
@pytest.mark.parametrize("size", SMALL_REDUCTION[:-1])
def test_of_a_central_square_few_bytes_differ_and_by_one(size, fraction):
    """Of wide images the integers of the graph are cut to 15 bits, so that some weights round otherwise."""
    found = difference(Preprocess(64, 3, 80, True, fraction), noise(3, *size, 3))
    assert found.max() <= 1
    assert found.float().mean() < (0.1 if max(size) > 300 else 0.001)


@pytest.mark.parametrize("preprocess", [WHOLE, CENTER], ids=["whole", "center"])
@pytest.mark.parametrize("size", [(321, 100), (500, 700), (90, 1500)])
def test_a_large_photo_is_resized_as_pillow_does(preprocess, size):
    """But rows come before columns, so that values near a half round otherwise."""
    found = difference(preprocess, noise(4, *size, 3))
    assert found.max() <= 1
    assert found.float().mean() < 0.2


def test_the_square_of_a_photo_of_more_px_than_integers_hold_is_still_there():
    pixels = np.zeros((1, 40_000, 3), np.uint8)
    pixels[:, 19_990:20_010] = 255
    view = Preprocess(image_size=224, channels=3, array_size=280, resized=True, eval_crop=1.0)
    assert difference(view, pixels).max() <= 1


@pytest.mark.parametrize("size", [(28, 28), (27, 20), (1, 28), (5, 6)])
def test_small_images_are_padded_to_the_byte(size):
    assert difference(KEPT, noise(5, *size, 3)).max() == 0


@pytest.mark.parametrize("size", [(29, 28), (10, 40), (60, 91)])
def test_larger_images_than_a_model_of_small_ones_knows_are_resized(size):
    found = difference(KEPT, noise(6, *size, 3))
    assert found.max() <= 1
    assert found.float().mean() < 0.02


def test_the_images_of_a_batch_do_not_mix():
    images = torch.from_numpy(np.stack([noise(seed, 90, 70, 3) for seed in range(3)]))
    view = EvaluationView(CENTER)
    assert torch.equal(view(images), torch.cat([view(image[None]) for image in images]))


@pytest.mark.parametrize("length", [10, 80, 97, 320])
def test_bfloat16_holds_the_weights_of_a_resize(length):
    weights = photo_taps(length, 80, torch.tensor([False])).weights
    assert torch.equal(weights.bfloat16().float(), weights)
    assert torch.equal(weights.sum(2).flatten(), torch.ones(80))


@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.7, 0.875, 0.95, 1.0])
def test_the_side_of_the_square_is_rounded_as_the_plan_does(fraction):
    sides = np.arange(1, 400)
    boxes = central_boxes(np.stack([sides, sides], 1), fraction)
    expected = np.rint(boxes[:, 2].astype(np.float64) * sides)
    found = [int(_multiply(fraction, torch.tensor([side]))) for side in sides]
    wrong = np.flatnonzero(found != expected)
    assert np.abs(np.subtract(found, expected)).max() <= 1
    assert all((2 * round(10 * fraction) * sides[wrong]) % 10 == 0), "only halves, where floats decide"
    assert not len(wrong) or fraction == 0.7


def test_images_that_keep_another_size_than_the_networks_are_refused():
    with pytest.raises(ValueError, match="train it again with --image-size 28"):
        EvaluationView(Preprocess(image_size=32, channels=3, array_size=28, resized=False))
