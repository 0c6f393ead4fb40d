"""Augment by torch operations on the device that holds the images.

`reference.py` is the definition.

It needs no library but torch. A shift is one gather. A resized crop is two
batched matrix products with the weights of the antialiased triangle filter: a GPU
computes them in its tensor cores, at about 36 MFLOP for an image of 128 px.
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


def to_device(draws: Draws, device: torch.device) -> DeviceDraws:
    """Copy the draws of some samples to a device without waiting for it: 27 bytes a sample."""
    arrays = (draws.box, draws.flip, draws.shift, draws.cutout)
    tensors = [torch.from_numpy(array) for array in arrays]
    if device.type == "cuda":
        # A copy from other memory waits for the work that the GPU has been given.
        tensors = [tensor.pin_memory() for tensor in tensors]
    return DeviceDraws(*(tensor.to(device, non_blocking=True) for tensor in tensors))


def augment(
    images: Tensor,
    index: Tensor,
    draws: DeviceDraws,
    policy: Policy,
    size: int,
    layout: Layout = "HWC",
) -> Tensor:
    """Augment a batch as `reference.augment` does; a padding row shows the last image.

    Args:
        images: uint8 [N, S, S, C].
        index: int64 [B], the images of the batch; -1 is a padding row.
        draws: of the batch, B rows.
        policy: the one that `draws` was drawn by.
        size: side T in px of the images to return.
        layout: order of an image's bytes.

    Returns:
        uint8 [B, T, T, C], contiguous.

    Raises:
        ValueError: the stored images are of the wrong size or layout for the
            policy.
    """
    if resizes(policy, images.shape[1], size):
        batch = _crop_images(images[index], draws, size, layout)
    elif layout == "HWC":
        batch = _shift_images(images, index, draws, policy)
    else:
        raise ValueError(
            f"Shifts need images of layout HWC, these are {layout}: prepare with --image-size {size}."
        )

    if policy.cutout:
        _blank_squares(batch, draws.cutout, policy)
    return batch


def _shift_images(images: Tensor, index: Tensor, draws: DeviceDraws, policy: Policy) -> Tensor:
    side = images.shape[1]
    pixel = torch.arange(side, device=images.device)
    y = pixel + draws.shift[:, :1]
    x = torch.where(draws.flip[:, None], side - 1 - pixel, pixel) + draws.shift[:, 1:]

    source_y = _reflect(y, side)[:, :, None]
    source_x = _reflect(x, side)[:, None, :]
    batch = images[index[:, None, None], source_y, source_x]

    if policy.pad == "zero" and policy.crop == "shift":
        inside_y = ((y >= 0) & (y < side))[:, :, None]
        inside_x = ((x >= 0) & (x < side))[:, None, :]
        batch *= (inside_y & inside_x)[..., None]
    return batch


def _reflect(index: Tensor, side: int) -> Tensor:
    """Return the pixels that indices show if the image is mirrored at its first and last pixel."""
    return (side - 1 - (side - 1 - index.abs()).abs()).long()


def _crop_images(images: Tensor, draws: DeviceDraws, size: int, layout: Layout) -> Tensor:
    """Resize the boxes of images, uint8 [B, S, S, C], one axis after the other."""
    batch, side, _, channels = images.shape
    dtype = torch.float16 if images.is_cuda else torch.float32  # tensor cores take fp16
    x, y, w, h = draws.box.unbind(1)

    horizontal = _triangle_weights(x * side, w * side, side, size)
    horizontal = torch.where(draws.flip[:, None, None], horizontal.flip(1), horizontal).to(dtype)
    vertical = _triangle_weights(y * side, h * side, side, size).to(dtype)
    outer = horizontal if layout == "WHC" else vertical
    inner = vertical if layout == "WHC" else horizontal

    half = torch.bmm(outer, images.view(batch, side, side * channels).to(dtype))
    half = half.view(batch, size, side, channels).transpose(1, 2)
    half = half.reshape(batch, side, size * channels)
    whole = torch.bmm(inner, half).view(batch, size, size, channels)

    # The axes are now swapped, which makes images of layout WHC upright.
    if layout == "HWC":
        whole = whole.transpose(1, 2)
    return whole.add_(0.5).clamp_(0, 255).to(torch.uint8).contiguous()


def _triangle_weights(start: Tensor, length: Tensor, side: int, size: int) -> Tensor:
    """Return the weights of one axis, as Pillow's `precompute_coeffs` for its bilinear filter.

    Args:
        start: float32 [B], where each box starts in px.
        length: float32 [B], of each box in px.
        side: of the images in px, S.
        size: side of the result in px, T.

    Returns:
        float32 [B, T, S].
    """
    scale = (length / size)[:, None]
    center = start[:, None] + (torch.arange(size, device=start.device) + 0.5) * scale
    pixel = torch.arange(side, device=start.device) + 0.5
    distance = (pixel - center[:, :, None]).abs() / scale.clamp(min=1)[:, :, None]
    weights = (1 - distance).clamp(min=0)

    return weights / weights.sum(2, keepdim=True)


def _blank_squares(images: Tensor, center: Tensor, policy: Policy) -> None:
    """Blank a square of each image in place."""
    size = images.shape[1]
    start = (center * size).floor().long() - policy.cutout // 2
    pixel = torch.arange(size, device=images.device)
    inside = (pixel >= start[:, :, None]) & (pixel < start[:, :, None] + policy.cutout)
    square = inside[:, 0, :, None] & inside[:, 1, None, :]
    images.masked_fill_(square[..., None], policy.fill)
