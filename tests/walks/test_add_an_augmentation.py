"""Add a toy augmentation, inverted images, in six source files."""

import dataclasses

import numpy as np
import pytest
import torch

PLAN = [
    ("    MIX = 6\n", "    MIX = 6\n    INVERT = 7\n"),
    ("    cutout: int = 0\n", "    cutout: int = 0\n    invert: float = 0.0\n"),
    ("    cutout: Float32\n", "    cutout: Float32\n    invert: Bool\n"),
    ("self.shift[index], self.cutout[index])", "self.shift[index], self.cutout[index], self.invert[index])"),
    (
        "            cutout=self._draw_cutouts(epoch),\n",
        "            cutout=self._draw_cutouts(epoch),\n            invert=self._draw_inverts(epoch),\n",
    ),
    (
        "    def _draw_boxes(",
        "    def _draw_inverts(self, epoch: int) -> Bool:\n"
        "        return self._random(Stream.INVERT, epoch).random(self.count) < self.policy.invert\n\n"
        "    def _draw_boxes(",
    ),
]
REFERENCE = [
    (
        "        rows.append(blank_square(",
        "        if draws.invert[row]:\n            image = 255 - image\n        rows.append(blank_square(",
    ),
]
CPU = [
    (
        "    cut_out(out, draws, policy)\n",
        "    out[draws.invert] = 255 - out[draws.invert]\n    cut_out(out, draws, policy)\n",
    ),
]
DEVICE = [
    ("    cutout: Tensor\n", "    cutout: Tensor\n    invert: Tensor\n"),
    ("draws.shift, draws.cutout)", "draws.shift, draws.cutout, draws.invert)"),
    (
        "    if policy.cutout:\n",
        "    batch = torch.where(draws.invert[:, None, None, None], 255 - batch, batch)\n    if policy.cutout:\n",
    ),
]
CONFIG = [
    (
        "    mixup: Annotated[",
        '    invert: Annotated[float, Option("Share of inverted images. -1: the recipe\'s.", "Augmentation")] = -1.0\n'
        "    mixup: Annotated[",
    ),
]
RECIPES = [('for name in ("shift", "cutout")', 'for name in ("shift", "cutout", "invert")')]
STEPS = {
    "plan.py": PLAN,
    "augment/reference.py": REFERENCE,
    "augment/cpu.py": CPU,
    "augment/device.py": DEVICE,
    "config.py": CONFIG,
    "recipes.py": RECIPES,
}


def use_augmentation():
    """Set the option, draw, and compare the three implementations on images of which some are inverted."""
    from trainer_classification.augment import device, reference
    from trainer_classification.config import TrainConfig
    from trainer_classification.plan import Plan
    from trainer_classification.recipes import RECIPES, apply_options

    policy = apply_options(TrainConfig(invert=0.5), RECIPES["mnist"]).policy
    images = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 1), np.uint8)
    plan = Plan(32, 0, policy)
    index = plan.order(0)
    draws = plan.draws(0)[index]
    assert 4 < draws.invert.sum() < 28, "the option does not reach the draws"

    nothing = dataclasses.replace(draws, invert=np.zeros(32, np.bool_))
    plain = reference.augment(images, index, nothing, policy, 8)
    expected = np.where(draws.invert[:, None, None, None], 255 - plain, plain)
    assert np.array_equal(reference.augment(images, index, draws, policy, 8), expected), "reference"

    on_device = device.to_device(draws, torch.device("cpu"))
    batch = device.augment(torch.from_numpy(images), torch.from_numpy(index), on_device, policy, 8)
    assert np.array_equal(batch.numpy(), expected), "device"

    from trainer_classification.augment import cpu

    assert np.array_equal(cpu.augment(images, index, draws, policy, 8), expected), "cpu"


def test_the_walk_makes_an_augmentation_on_which_all_implementations_agree(walk):
    assert len(STEPS) <= 6
    walk.follow(STEPS)
    use_augmentation()


@pytest.mark.parametrize(
    ("missing", "error"),
    [
        ("plan.py", "unexpected keyword argument 'invert'"),
        ("augment/reference.py", "reference"),
        ("augment/device.py", "device"),
        ("augment/cpu.py", "cpu"),
        ("config.py", "unexpected keyword argument 'invert'"),
        ("recipes.py", "the option does not reach the draws"),
    ],
)
def test_a_missing_step_is_noticed(walk, missing, error):
    walk.follow(STEPS, missing)
    with pytest.raises((AssertionError, TypeError), match=error):
        use_augmentation()
