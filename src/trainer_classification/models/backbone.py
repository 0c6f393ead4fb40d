"""Take a network apart: the backbone, which makes features of an image, and the head, which makes logits of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from trainer_classification.models.catalogue import NETWORKS
from trainer_classification.models.efficientnet import EfficientNet, folded

Backbone = Callable[[Tensor], Tensor]


def split_head(network: nn.Module, name: str) -> tuple[Backbone, nn.Linear]:
    """Return backbone and head for inference; the network stays as it is.

    Args:
        network: of the catalogue.
        name: of the network in the catalogue.

    Returns:
        A function from normalized images, float [B, C, H, W], to features, float
        [B, F], which several threads may call, and the network's own last layer.
        Norms of an EfficientNet are folded into its convolutions.
    """
    head = cast(nn.Linear, getattr(network, NETWORKS[name].head))
    if isinstance(network, EfficientNet):
        return folded(network).features, head
    backbone = copy.deepcopy(network).eval()
    setattr(backbone, NETWORKS[name].head, nn.Identity())

    return backbone, head
