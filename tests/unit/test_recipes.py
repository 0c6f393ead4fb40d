"""The recipe derived for a dataset that has none of its own, and what is said of its augmentation."""

import dataclasses

import pytest

from trainer_classification.plan import Policy
from trainer_classification.recipes import RECIPES, describe_augmentation, describe_mixing, recipe_for


@pytest.mark.parametrize(("channels", "flip"), [(1, "none"), (3, "random")])
def test_gray_images_are_not_flipped_whatever_their_size(channels, flip):
    small, _ = recipe_for("signs", 32, channels, 1000, resized=False)
    large, _ = recipe_for("signs", 64, channels, 1000, resized=True)
    assert (small.policy.flip, large.policy.flip) == (flip, flip)


def test_the_augmentation_is_named_and_so_is_the_option_that_turns_flips_off():
    policy = Policy(crop="shift", shift=4, flip="alternating")
    assert describe_augmentation(policy) == "alternating flips, which --flip none turns off, shifts of up to 4 px"
    photo = Policy(crop="resized", area=(0.25, 1.0), cutout=8)
    colors = Policy(color_jitter=0.4, erasing=0.25, rand_augment=9)
    assert "two random operations of magnitude 9, colors changed" in describe_augmentation(colors)
    assert describe_augmentation(colors).endswith("colors changed by up to 40%, a blank box in 25% of the images")
    assert describe_augmentation(photo) == "no flips, crops of 25% to 100% of the area, a blank square of 8 px"
    assert describe_augmentation(dataclasses.replace(policy, flip="none", shift=0)) == "no flips"
    recipe = dataclasses.replace(RECIPES["cifar10"], mixup=0.2, cutmix=1.0)
    assert describe_mixing(recipe) == ["mixup with alpha 0.2", "cutmix with alpha 1"]
    assert describe_mixing(RECIPES["cifar10"]) == []
