"""Augment by torch operations on the device that holds the images.

`reference.py` is the definition.

It needs no library but torch. A shift is one gather. A resized crop is two
batched matrix products with the weights of the antialiased triangle filter: a GPU
computes them in its tensor cores, at about 36 MFLOP for an image of 128 px.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from trainer_classification.augment.reference import Layout, resizes, stored_shape
from trainer_classification.plan import COLOR_UNIT, GEOMETRY_UNIT, Draws, Policy


@dataclass(frozen=True)
class DeviceDraws:
    """`plan.Draws` as tensors on a device."""

    box: Tensor
    flip: Tensor
    shift: Tensor
    cutout: Tensor
    color: Tensor
    erased: Tensor
    operations: Tensor


def to_device(draws: Draws, device: torch.device) -> DeviceDraws:
    """Copy the draws of some samples to a device without waiting for it: 49 bytes a sample, and 96 of RandAugment."""
    arrays = [getattr(draws, field.name) for field in fields(DeviceDraws)]
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
        images: uint8 [N, S, S, C], or [N, S * S * 3 / 2] for layout "YCC".
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
    side, _ = stored_shape(images.shape, layout)
    if resizes(policy, side, size):
        crop = _crop_planes if layout == "YCC" else _crop_images
        batch = crop(images[index], draws, size, layout)
    elif layout == "HWC":
        batch = _shift_images(images, index, draws, policy)
    else:
        raise ValueError(
            f"Shifts need images of layout HWC, these are {layout}: prepare with --image-size {size}."
        )

    return finish(batch, draws, policy)


def finish(images: Tensor, draws: DeviceDraws, policy: Policy) -> Tensor:
    """Do what follows crop, shift and flip: operations, colors, then blanked boxes.

    Args:
        images: uint8 [B, T, T, C]; may be written.
        draws: of the batch, B rows.
        policy: the one that `draws` was drawn by.
    """
    for operation in draws.operations.unbind(1):
        images = _operate(images, operation, policy.fill)
    if policy.color_jitter:
        images = _jitter_colors(images, draws.color)
    size = images.shape[1]
    if policy.cutout:
        first = (draws.cutout * size).floor().long() - policy.cutout // 2
        _blank(images, first, first + policy.cutout, policy.fill)
    if policy.erasing:
        edges = (draws.erased * size).floor().long()
        _blank(images, edges[:, :2], edges[:, 2:], policy.fill)
    return images


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
    horizontal, vertical = _axis_weights(draws, images.shape[1], size)
    if layout == "WHC":
        whole = _resample(images, horizontal, vertical)
    else:
        whole = _resample(images, vertical, horizontal).transpose(1, 2)

    return _to_bytes(whole)


def _crop_planes(images: Tensor, draws: DeviceDraws, size: int, layout: Layout) -> Tensor:
    """Resize the boxes of planes, uint8 [B, S * S * 3 / 2], and then convert them to RGB (ITU-T T.871)."""
    side, _ = stored_shape(images.shape, layout)
    half = side // 2
    luma, blue, red = torch.split(images, [side**2, half**2, half**2], 1)

    y = _resample(luma.reshape(-1, side, side, 1), *_axis_weights(draws, side, size)).float()
    weights = _axis_weights(draws, half, size)
    b = _resample(blue.reshape(-1, half, half, 1), *weights).float() - 128
    r = _resample(red.reshape(-1, half, half, 1), *weights).float() - 128
    colors = (y + 1.402 * r, y - 0.344136 * b - 0.714136 * r, y + 1.772 * b)

    return _to_bytes(torch.cat(colors, 3))


def _to_bytes(values: Tensor) -> Tensor:
    """Round values, which may be written, to uint8."""
    return values.add_(0.5).clamp_(0, 255).to(torch.uint8).contiguous()


def _axis_weights(draws: DeviceDraws, side: int, size: int) -> tuple[Tensor, Tensor]:
    """Return the weights of boxes across and down, [B, T, S] each; in fp16 on a GPU, for its tensor cores."""
    dtype = torch.float16 if draws.box.is_cuda else torch.float32
    x, y, w, h = draws.box.unbind(1)

    horizontal = _triangle_weights(x * side, w * side, side, size)
    horizontal = torch.where(draws.flip[:, None, None], horizontal.flip(1), horizontal).to(dtype)
    vertical = _triangle_weights(y * side, h * side, side, size).to(dtype)

    return horizontal, vertical


def _resample(images: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    """Weight both axes of images, uint8 [B, S, S, C], and swap them: [B, T, T, C] in the weights' type.

    Args:
        images: outer axis first.
        outer: [B, T, S].
        inner: [B, T, S].
    """
    batch, side, _, channels = images.shape
    size = outer.shape[1]
    half = torch.bmm(outer, images.reshape(batch, side, side * channels).to(outer.dtype))
    half = half.view(batch, size, side, channels).transpose(1, 2)
    half = half.reshape(batch, side, size * channels)
    return torch.bmm(inner, half).view(batch, size, size, channels)


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


def _operate(images: Tensor, operation: Tensor, fill: int) -> Tensor:
    """Do an operation of each image: all kinds, of which those that it is not change nothing.

    Args:
        images: uint8 [B, T, T, C], of 1 or 3 channels.
        operation: int32 [B, 12], as `plan.draw_operations`.
        fill: value of the pixels that come from outside of the image.
    """
    images = _warp(images, operation[:, :6], fill)
    images = _jitter_colors(images, operation[:, 6:9]).int()
    kept, threshold, stretches = operation[:, 9:, None, None, None].unbind(1)
    images = images & kept
    images = torch.where(images >= threshold, 255 - images, images)

    low = images.amin((1, 2), keepdim=True)
    span = images.amax((1, 2), keepdim=True) - low
    stretched = (images - low) * 255 + torch.div(span, 2, rounding_mode="floor")
    stretched = torch.div(stretched, span.clamp(min=1), rounding_mode="floor")
    images = torch.where((stretches > 0) & (span > 0), stretched, images)

    return images.to(torch.uint8)


def _warp(images: Tensor, geometry: Tensor, fill: int) -> Tensor:
    """Move the pixels of each image by a matrix and a shift, int32 [B, 6], without interpolation."""
    size = images.shape[1]
    a, b, c, d, dy, dx = geometry[:, :, None, None].unbind(1)
    center = 2 * torch.arange(size, device=images.device, dtype=torch.int32) - (size - 1)
    v = center[:, None]
    u = center[None, :]
    half = size * GEOMETRY_UNIT
    y = (a * v + b * u + 2 * size * dy + half) >> 17
    x = (c * v + d * u + 2 * size * dx + half) >> 17

    inside = (y >= 0) & (y < size) & (x >= 0) & (x < size)
    row = torch.arange(len(images), device=images.device)[:, None, None]
    moved = images[row, y.clamp(0, size - 1).long(), x.clamp(0, size - 1).long()]
    return torch.where(inside[..., None], moved, fill)


def _jitter_colors(images: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, contrast and saturation, in whole numbers.

    Args:
        images: uint8 [B, T, T, C], of 1 or 3 channels.
        factors: int16 or int32 [B, 3], in 1/256.

    Returns:
        uint8 [B, T, T, C].
    """
    brightness, contrast, saturation = factors.int()[:, :, None, None, None].unbind(1)
    pixels = _round_to_bytes(images.int() * brightness)
    gray = _to_gray(pixels)
    count = gray[0].numel()
    total = gray.sum((1, 2, 3), keepdim=True)  # int64
    mean = torch.div(total + count // 2, count, rounding_mode="floor").int()
    pixels = _round_to_bytes(pixels * contrast + mean * (COLOR_UNIT - contrast))
    gray = _to_gray(pixels)
    pixels = _round_to_bytes(pixels * saturation + gray * (COLOR_UNIT - saturation))

    return pixels.to(torch.uint8)


def _round_to_bytes(values: Tensor) -> Tensor:
    """Return values in 1/256 as whole numbers of 0..255."""
    return ((values + COLOR_UNIT // 2) >> 8).clamp_(0, 255)


def _to_gray(pixels: Tensor) -> Tensor:
    """Return the luma of ITU-R 601, int32 [B, T, T, 1]; of one channel, that channel."""
    if pixels.shape[3] == 1:
        return pixels
    red, green, blue = pixels.unbind(3)
    return _round_to_bytes(77 * red + 150 * green + 29 * blue)[..., None]


def _blank(images: Tensor, start: Tensor, end: Tensor, fill: int) -> None:
    """Blank a box of each image in place, from start to end, int64 [B, 2] each, y and x in px."""
    pixel = torch.arange(images.shape[1], device=images.device)
    inside = (pixel >= start[:, :, None]) & (pixel < end[:, :, None])
    box = inside[:, 0, :, None] & inside[:, 1, None, :]
    images.masked_fill_(box[..., None], fill)
