"""Show a network what a run's evaluation sees of an image: `inference.preprocess` as a part of the graph."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor, nn

from trainer_classification.exporting.axis_weights import (
    Box,
    box_triangle,
    hamming,
    length_of,
    padding,
    sharp_triangle,
    triangle,
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
        rows = torch.arange(images.shape[1])
        columns = torch.arange(images.shape[2])
        if not self.preprocess.resized:
            return self._keep(images, rows, columns)

        height = length_of(rows)
        width = length_of(columns)
        is_shrunk = torch.maximum(height, width) > _MAX_SHRINK * size
        prepared = _resize_rows_first(
            images.permute(0, 3, 1, 2).float(),
            torch.where(is_shrunk, hamming(rows, size), sharp_triangle(rows, size)),
            torch.where(is_shrunk, hamming(columns, size), sharp_triangle(columns, size)),
        )

        return self._crop(prepared, height, width)

    def _keep(self, images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Pad images to S x S, or resize them whole where they are larger, as `Preprocess` does."""
        size = self.preprocess.array_size
        is_larger = torch.maximum(length_of(rows), length_of(columns)) > size
        down = torch.where(is_larger, triangle(rows, size), padding(rows, size))
        across = torch.where(is_larger, triangle(columns, size), padding(columns, size))
        return _resize_columns_first(images.permute(0, 3, 2, 1).float(), down, across)

    def _crop(self, prepared: Tensor, height: Tensor, width: Tensor) -> Tensor:
        """Cut the central square out of prepared images, float [B, C, S, S] as [x, y], to [B, C, T, T]."""
        size = self.preprocess.image_size
        side = self.preprocess.array_size
        fraction = self.preprocess.eval_crop
        if size == side and fraction == 0:
            return prepared.transpose(2, 3)

        if fraction == 0:
            one = torch.ones(1, dtype=torch.int64)
            across = box_triangle(side, size, Box(0 * one, one, one))
            down = across
        else:
            length = _multiply(fraction, torch.minimum(height, width))
            across = box_triangle(side, size, Box((width - length) // 2, length, width))
            down = box_triangle(side, size, Box((height - length) // 2, length, height))

        return _resize_columns_first(prepared, down, across)


def _resize_rows_first(planes: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Resize images as prepare's kernels do: float [B, C, H, W] to [B, C, S, S] as [x, y].

    Pillow, which prepares what shrinks more than fourfold, takes columns first:
    some values differ by one.
    """
    rows = _round(down @ planes)
    return _round(across @ rows.transpose(2, 3))


def _resize_columns_first(planes: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Resize images as Pillow and `augment.cpu` do: float [B, C, W, H] as [x, y] to [B, C, T, T] as [y, x]."""
    columns = _round(across @ planes)
    return _round(down @ columns.transpose(2, 3))


def _round(values: Tensor) -> Tensor:
    """Round to whole numbers, halves up."""
    return torch.round(values + _TIE)


def _multiply(fraction: float, count: Tensor) -> Tensor:
    """Return a fraction of a count as `plan.central_boxes` rounds it, at least 1: int64 [1]."""
    exact = Fraction(fraction).limit_denominator(_MAX_DENOMINATOR)
    divisor = 2 * exact.denominator
    doubled = 2 * exact.numerator * count + exact.denominator
    rounded = doubled // divisor
    is_odd_tie = (rounded * divisor == doubled) & (rounded % 2 == 1)

    return torch.clamp(rounded - is_odd_tie.long(), min=1)
