"""Name a model by its weights, so that predictions can say which one made them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from torch import Tensor

_DIGITS = 16


def model_id(tensors: Mapping[str, Tensor]) -> str:
    """Return 16 hex digits of the SHA-256 of a state dict: the same in model.pth, checkpoint and archive."""
    state = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        state.update(tensor.numpy().tobytes())
    return state.hexdigest()[:_DIGITS]
