"""Augmentation as torch operations on the device that holds the images; the definition is `oracle.py`.

Needs torch alone. A shift is one gather. A resized crop is two batched matrix products with the weights of the
antialiased triangle filter: on a GPU the tensor cores do it, at some 36 MFLOP an image of 128 px.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer_classification.augment.reference import Layout, resizes
from trainer_classification.plan import Draws, Policy


@dataclass(frozen=True)
class DeviceDraws:
    """`plan.Draws` as tensors on a device."""

    box: Tensor
    flip: Tensor
    shift: Tensor
    cutout: Tensor

    def __getitem__(self, index: Tensor) -> DeviceDraws:
        return DeviceDraws(self.box[index], self.flip[index], self.shift[index], self.cutout[index])


def to_device(draws: Draws, device: torch.device) -> DeviceDraws:
    """Move a whole epoch's draws at once: 23 bytes a sample."""
    arrays = (draws.box, draws.flip, draws.shift, draws.cutout)
    return DeviceDraws(*(torch.from_numpy(array).to(device, non_blocking=True) for array in arrays))


def augment(
    images: Tensor, index: Tensor, draws: DeviceDraws, policy: Policy, size: int, layout: Layout = "HWC"
) -> Tensor:
    """As `oracle.augment`, with tensors: uint8 [N, S, S, C], int64 [B] -> uint8 [B, T, T, C], contiguous.

    A padding row (index -1) shows the last image.
    """
    if resizes(policy, images.shape[1], size):
        batch = _resized_crops(images[index], draws, size, layout)
    elif layout == "HWC":
        batch = _shifts(images, index, draws, policy)
    else:
        raise ValueError(f"Shifts need images of layout HWC, these are {layout}: prepare with --image-size {size}.")
    return _cutouts(batch, draws.cutout, policy) if policy.cutout else batch


def _shifts(images: Tensor, index: Tensor, draws: DeviceDraws, policy: Policy) -> Tensor:
    side = images.shape[1]
    at = torch.arange(side, device=images.device)
    y = at + draws.shift[:, :1]
    x = torch.where(draws.flip[:, None], side - 1 - at, at) + draws.shift[:, 1:]
    batch = images[index[:, None, None], _reflected(y, side)[:, :, None], _reflected(x, side)[:, None, :]]
    if policy.pad == "zero" and policy.crop == "shift":
        inside = ((y >= 0) & (y < side))[:, :, None] & ((x >= 0) & (x < side))[:, None, :]
        batch *= inside[..., None]
    return batch


def _reflected(at: Tensor, side: int) -> Tensor:
    return (side - 1 - (side - 1 - at.abs()).abs()).long()


def _resized_crops(images: Tensor, draws: DeviceDraws, size: int, layout: Layout) -> Tensor:
    """uint8 [B, S, S, C], one axis after the other; tensor cores take fp16, the CPU fp32."""
    batch, side, _, channels = images.shape
    kind = torch.float16 if images.is_cuda else torch.float32
    x, y, w, h = draws.box.unbind(1)
    horizontal = _triangle(x * side, w * side, side, size)
    horizontal = torch.where(draws.flip[:, None, None], horizontal.flip(1), horizontal).to(kind)
    vertical = _triangle(y * side, h * side, side, size).to(kind)
    first, second = (horizontal, vertical) if layout == "WHC" else (vertical, horizontal)
    half = torch.bmm(first, images.view(batch, side, side * channels).to(kind))
    half = half.view(batch, size, side, channels).transpose(1, 2).reshape(batch, side, size * channels)
    whole = torch.bmm(second, half).view(batch, size, size, channels)
    whole = whole if layout == "WHC" else whole.transpose(1, 2)
    return whole.add_(0.5).clamp_(0, 255).to(torch.uint8).contiguous()


def _triangle(start: Tensor, length: Tensor, side: int, size: int) -> Tensor:
    """Weights float32 [B, T, S] of one axis, as Pillow's `precompute_coeffs` for its bilinear filter."""
    scale = (length / size)[:, None]
    centre = start[:, None] + (torch.arange(size, device=start.device) + 0.5) * scale
    at = torch.arange(side, device=start.device) + 0.5
    weights = (1 - (at - centre[:, :, None]).abs() / scale.clamp(min=1)[:, :, None]).clamp(min=0)
    return weights / weights.sum(2, keepdim=True)


def _cutouts(images: Tensor, centre: Tensor, policy: Policy) -> Tensor:
    size, side = images.shape[1], policy.cutout
    start = (centre * size).floor().long() - side // 2
    at = torch.arange(size, device=images.device)
    inside = (at >= start[:, :, None]) & (at < start[:, :, None] + side)
    blank = inside[:, 0, :, None] & inside[:, 1, None, :]
    return images.masked_fill_(blank[..., None], policy.fill)
