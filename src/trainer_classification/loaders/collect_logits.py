"""Run a network over a split once, and collect its logits in the order of the samples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from trainer_classification.arrays import Float32, Int64
from trainer_classification.loaders.base import Loader


@torch.inference_mode()
def collect_logits(
    network: nn.Module,
    loader: Loader,
    normalize: Callable[[Tensor], Tensor],
    dtype: torch.dtype | None = None,
) -> tuple[Float32, Int64]:
    """Compute the logits of every sample, by the running statistics; the network's mode is restored.

    Args:
        network: on the loader's device; float [B, C, H, W] to logits [B, K].
        loader: opened for evaluation, with all samples of the split on this one
            rank.
        normalize: uint8 [B, H, W, C] to what the network takes.
        dtype: of autocast; None: none, everything in fp32.

    Returns:
        (logits, labels): float32 [N, K] and int64 [N]; row i is sample i.
    """
    was_training = network.training
    network.eval()
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    indices: list[Tensor] = []
    for batch in loader.epoch(0):
        # The loader reuses its buffers, hence the copies.
        images = normalize(batch.images[: batch.count])
        with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
            logits.append(network(images).float())
        labels.append(batch.labels[: batch.count].clone())
        indices.append(batch.index[: batch.count].clone())
    network.train(was_training)

    order = torch.cat(indices).argsort()

    return torch.cat(logits)[order].cpu().numpy(), torch.cat(labels)[order].cpu().numpy()
