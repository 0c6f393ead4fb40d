"""Add a toy network in three source files: its own, the catalogue, and the option's values."""

import dataclasses

import pytest
import torch

NETWORK = '''
"""A toy network: a linear layer over the mean of each channel."""

from torch import nn


class ToyNet(nn.Module):
    """Map normalized images, float [B, C, H, W], to logits, float [B, K]."""

    def __init__(self, num_classes, channels):
        super().__init__()
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x):
        return self.fc(x.mean((2, 3)))


def build(num_classes, channels, image_size, width=0):
    """Return a network with new weights."""
    return ToyNet(num_classes, channels)
'''
CATALOGUE = [
    ("models import efficientnet, resnet, speednet\n", "models import efficientnet, resnet, speednet, toynet\n"),
    (
        "NETWORKS: dict[str, NetworkSpec] = {\n",
        'NETWORKS: dict[str, NetworkSpec] = {\n    "toynet": NetworkSpec(builder=toynet.build),\n',
    ),
]
OPTION = [("ModelName = Literal[\n", 'ModelName = Literal[\n    "toynet",\n')]
STEPS = {
    "models/toynet.py": NETWORK,
    "models/catalogue.py": CATALOGUE,
    "config.py": OPTION,
}


def use_network():
    """Choose the network by the option, and let it take a step."""
    from trainer_classification.config import TrainConfig
    from trainer_classification.models import build
    from trainer_classification.optim.parameter_groups import build_optimizer
    from trainer_classification.recipes import RECIPES

    recipe = dataclasses.replace(RECIPES["mnist"], model=TrainConfig(model="toynet").model)
    model = build(recipe.model, 10, 1, recipe.image_size, recipe.width)
    optimizer = build_optimizer(model, recipe)
    before = model.fc.weight.clone()
    model(torch.randn(4, 1, 28, 28)).square().mean().backward()
    optimizer.step()
    assert not torch.equal(model.fc.weight, before)


def test_the_walk_makes_a_network_that_trains(walk):
    assert len(STEPS) <= 3
    walk.follow(STEPS)
    use_network()


@pytest.mark.parametrize(
    ("missing", "error"),
    [
        ("models/toynet.py", "cannot import name 'toynet'"),
        ("models/catalogue.py", "There is no model 'toynet'"),
        ("config.py", "--model is 'toynet', but must be one of"),
    ],
)
def test_a_missing_step_is_noticed(walk, missing, error):
    walk.follow(STEPS, missing)
    with pytest.raises((ImportError, ValueError), match=error):
        use_network()
