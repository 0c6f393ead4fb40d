"""The optimizers do what torch's do, to the bit, without importing the compiler."""

import subprocess
import sys

import pytest
import torch
from torch import nn, optim

from trainer_classification.optim import unguarded

OPTIONS = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "fused": True},
    "AdamW": {"lr": 0.01, "weight_decay": 0.01, "fused": True},
    "LBFGS": {"lr": 0.1, "max_iter": 3},
}


def trained(module, name):
    """Weights after some steps, the optimizer's state stored and restored between them."""
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    inputs = torch.randn(8, 5)
    optimizer = getattr(module, name)(model.parameters(), **OPTIONS[name])

    def measure_loss():
        optimizer.zero_grad()
        loss = model(inputs).square().mean()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(measure_loss)
        optimizer.load_state_dict(optimizer.state_dict())
    return model.weight.detach()


@pytest.mark.parametrize("name", OPTIONS)
def test_it_does_what_torch_does_to_the_bit(name):
    assert torch.equal(trained(unguarded, name), trained(optim, name))
    assert issubclass(getattr(unguarded, name), getattr(optim, name))


PROGRAM = """
import sys
import torch
from trainer_classification.optim import muon, unguarded
weight = torch.ones(3, 3, requires_grad=True)
group = {"params": [weight], "rate": 1.0, "orthogonal": True, "momentum": 0.9, "weight_decay": 0.0}
for optimizer in (unguarded.SGD([weight], 0.1), unguarded.AdamW([weight]), muon.Muon([group], 0.1)):
    optimizer.zero_grad()
    weight.sum().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
fitted = unguarded.LBFGS([weight])
fitted.step(lambda: weight.square().sum())
print("torch._dynamo" in sys.modules)
"""


def test_no_optimizer_imports_the_compiler():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
