"""The optimizers of torch without what guards them in compiled code.

`torch.optim.Optimizer` keeps the compiler out of its methods by decorators that
import `torch._dynamo` when they are called first. That takes half as long as
importing torch itself. Only the model is ever compiled here, so the methods under
the decorators do the same.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import optim

_plain: Any = inspect.unwrap


class Optimizer(optim.Optimizer):
    """The base class of optimizers."""

    add_param_group = _plain(optim.Optimizer.add_param_group)
    load_state_dict = _plain(optim.Optimizer.load_state_dict)
    state_dict = _plain(optim.Optimizer.state_dict)
    zero_grad = _plain(optim.Optimizer.zero_grad)


class SGD(Optimizer, optim.SGD):
    """Stochastic gradient descent with momentum, as `torch.optim.SGD`."""

    step = torch.no_grad()(_plain(optim.SGD.step))


class AdamW(Optimizer, optim.AdamW):
    """Adam with decoupled weight decay, as `torch.optim.AdamW`."""

    step = torch.no_grad()(_plain(optim.AdamW.step))


class LBFGS(Optimizer, optim.LBFGS):
    """Limited-memory BFGS, as `torch.optim.LBFGS`."""
