"""Show a network what a run's evaluation sees of an image: `inference.preprocess` as a part of the graph."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor, nn

from trainer_classification.exporting.axis_weights import (
    Box,
    Taps,
    box_taps,
    kept_taps,
    number,
    photo_taps,
)
from trainer_classification.inference.preprocess import Preprocess

_MAX_SHRINK = 4  # as of data.decode: beyond it Pillow resizes
_TIE = 2.0**-10  # makes halves round up as the kernels do; less than the smallest step of a sum
_MAX_DENOMINATOR = 10_000  # of an eval_crop as a fraction


class EvaluationView(nn.Module):
    """Decoded images to the images that the network sees.

    Args:
        preprocess: how the model wants its images.

    Raises:
        ValueError: images keep their size, but the network wants another.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        if not preprocess.resized and preprocess.array_size != preprocess.image_size:
            raise ValueError(
                f"The model's images keep their size of {preprocess.array_size} px, but its network sees "
                f"{preprocess.image_size} px: train it again with --image-size {preprocess.array_size}."
            )
        self.preprocess = preprocess

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [B, H, W, C] of any height and width to whole numbers of 0 to 255, float [B, C, T, T]."""
        size = self.preprocess.array_size
        batch, height, width, channels = images.shape
        longest = torch.maximum(number(height), number(width))
        if not self.preprocess.resized:
            # As Pillow does: columns first.
            is_larger = longest > size
            across = _resize(images.permute(2, 0, 1, 3), kept_taps(width, size, is_larger))
            down = _resize(
                _turn(across, (batch, height, channels)), kept_taps(height, size, is_larger)
            )
            return down.reshape(size, channels, size, batch).permute(3, 1, 0, 2)

        # As prepare's kernels do: rows first. Pillow, which prepares what shrinks
        # more than fourfold, takes columns first: some values differ by one.
        is_shrunk = longest > _MAX_SHRINK * size
        down = _resize(images.transpose(0, 1), photo_taps(height, size, is_shrunk))
        prepared = _resize(
            _turn(down, (batch, width, channels)), photo_taps(width, size, is_shrunk)
        )

        return self._crop(prepared.reshape(size, channels, size, batch), height, width)

    def _crop(self, prepared: Tensor, height: int, width: int) -> Tensor:
        """Cut the central square out of prepared images, float [S as x, C, S as y, B], to [B, C, T, T]."""
        size = self.preprocess.image_size
        side, channels, _, batch = prepared.shape
        fraction = self.preprocess.eval_crop
        if size == side and fraction == 0:
            return prepared.permute(3, 1, 2, 0)

        if fraction == 0:
            whole = Box(number(0), number(1), number(1))
            taps = [box_taps(side, size, whole)] * 2
        else:
            sides = (number(width), number(height))
            length = _multiply(fraction, torch.minimum(*sides))
            boxes = [Box((whole - length) // 2, length, whole) for whole in sides]
            taps = [box_taps(side, size, box) for box in boxes]

        # As augment.cpu does: columns first.
        across = _resize(prepared, taps[0])
        down = _resize(_turn(across, (channels, side, batch)), taps[1])
        return down.reshape(size, batch, size, channels).permute(1, 3, 0, 2)


def _resize(values: Tensor, taps: Taps) -> Tensor:
    """Resize the first axis: numbers [N, ...] to whole numbers, float [size, product of the rest]."""
    rows = values.flatten(1)
    blocks, size, count = taps.weights.shape
    windows = rows.index_select(0, taps.pixels.flatten()).float()
    sums = torch.bmm(taps.weights, windows.view(blocks, count, rows.shape[1]))
    return _round(sums.view(blocks * size, rows.shape[1]))


def _turn(values: Tensor, rest: tuple[int, int, int]) -> Tensor:
    """Let the axis L lead that is the middle one of the rest (A, L, Z): [N, A * L * Z] to [L, Z * N * A].

    Of all ways to do this, a transpose of a matrix is the quickest.
    """
    before, length, after = rest
    count = values.shape[0]
    matrix = values.reshape(count * before, length * after)
    return matrix.t().reshape(length, after * count * before)


def _round(values: Tensor) -> Tensor:
    """Round to whole numbers, halves up."""
    return torch.round(values + _TIE)


def _multiply(fraction: float, count: Tensor) -> Tensor:
    """Return a fraction of a count as `plan.central_boxes` rounds it, at least 1: int64 [1]."""
    exact = Fraction(fraction).limit_denominator(_MAX_DENOMINATOR)
    divisor = 2 * exact.denominator
    doubled = 2 * exact.numerator * count + exact.denominator
    rounded = doubled // divisor
    is_tie = rounded * divisor == doubled

    return torch.maximum(rounded - is_tie.long() * (rounded % 2), number(1))
