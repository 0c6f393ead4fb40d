"""Draw the order and the augmentation of every epoch as pure functions of (seed, epoch).

Draws belong to the sample, not to its position in a batch. Batch size, rank,
world size, number of workers and engine therefore change nothing, and the state
of a run is (epoch, step). The generator is Philox, which is counter-based (Salmon
et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

import numpy as np

from trainer_classification.arrays import Bool, Float32, Int8, Int16, Int32, Int64, Integers
from trainer_classification.crop_boxes import CropBoxes, find_kernels

COLOR_UNIT = 256  # of the factors of color jitter: 1.0
# Share of the image's area and height / width of an erased box, as in torchvision.
_ERASED_AREA = (0.02, 0.33)
_ERASED_ASPECT = (0.3, 3.3)
GEOMETRY_UNIT = 1 << 16  # of an operation's matrix and of its shift: 1.0
_OPERATIONS = 2  # on each image
_LARGEST_MAGNITUDE = 10.0


class Stream(IntEnum):
    """A stream of random numbers for each purpose.

    The values are part of the plan: never change one.
    """

    ORDER = 0
    FLIP = 1
    SHIFT = 2
    BOX = 3
    CUTOUT = 4
    FIRST_FLIP = 5
    MIX = 6
    COLOR = 7
    ERASE = 8
    OPERATION = 9


def random_stream(seed: int, stream: Stream, index: int) -> np.random.Generator:
    """Return the generator of a purpose.

    Args:
        seed: the seed of the run, 0 or more.
        stream: the purpose.
        index: the epoch, or for `Stream.MIX` the step; below 2**32.
    """
    key = np.array(_stream_key(seed, stream, index), np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def _stream_key(seed: int, stream: Stream, index: int) -> tuple[int, int]:
    return seed, stream << 32 | index


@dataclass(frozen=True)
class Policy:
    """How training images are augmented. The default changes nothing.

    Attributes:
        crop: "none" (the whole image), "shift" (by up to `shift` px, for small
            images) or "resized" (a random box).
        shift: largest shift in px, for crop "shift".
        pad: what a shift moves into the image: "reflect" (without the edge pixel,
            as in numpy) or "zero".
        area: smallest and largest share of the image's area of a resized crop.
        aspect: smallest and largest width / height of a resized crop.
        flip: "none", "random", or "alternating" (Jordan, "94% on CIFAR-10 in 3.29
            seconds on a single GPU", 2024): each sample is flipped in every other
            epoch, and half of the samples start flipped.
        cutout: side in px of a blanked square (DeVries and Taylor, arXiv
            1708.04552); 0 for none.
        fill: gray value 0..255 of what is blanked. The default is near the mean of
            photographs.
        color_jitter: largest change of brightness, contrast and saturation, each as
            a fraction of it, 0..1; 0 for none.
        erasing: probability that a box of 2 to 33 % of the image is blanked (Zhong
            et al., "Random erasing data augmentation", arXiv 1708.04896).
        rand_augment: magnitude of two random operations, 0..10 (Cubuk et al.,
            "RandAugment", arXiv 1909.13719); 0 for none.
    """

    crop: Literal["none", "shift", "resized"] = "none"
    shift: int = 0
    pad: Literal["reflect", "zero"] = "reflect"
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: Literal["none", "random", "alternating"] = "none"
    cutout: int = 0
    fill: int = 114
    color_jitter: float = 0.0
    erasing: float = 0.0
    rand_augment: float = 0.0


@dataclass(frozen=True)
class Draws:
    """The random numbers of some samples.

    Every array has one row a sample, in the order in which they were asked for.

    Attributes:
        box: float32 [n, 4], x, y, w, h as fractions of the original image.
        flip: bool [n], mirrored left to right, after the crop.
        shift: int8 [n, 2], dy, dx: output pixel (y, x) shows input pixel (y + dy,
            x + dx).
        cutout: float32 [n, 2], center y, x of the blanked square as fractions of
            the output image, after the flip.
        color: int16 [n, 3], factors of brightness, contrast and saturation, in
            1/256.
        erased: float32 [n, 4], top, left, bottom, right of the erased box as
            fractions of the output image; zeros: none.
        operations: int32 [n, 2, 12], or [n, 0, 12] where there are none: those of
            `draw_operations`, one after the other.
    """

    box: Float32
    flip: Bool
    shift: Int8
    cutout: Float32
    color: Int16
    erased: Float32
    operations: Int32

    def __getitem__(self, index: Int64 | slice) -> Draws:
        """Return some of the rows."""
        return Draws(*(_take(getattr(self, name), index) for name in _FIELDS))


_FIELDS = tuple(field.name for field in dataclasses.fields(Draws))


def _take(values: Any, index: Int64 | slice) -> Any:
    """Return some rows of an array, as a copy for an index; where all rows are one, without looking for each."""
    if isinstance(index, slice) or values.strides[0] != 0 or len(index) > len(values):
        return values[index]
    return values[: len(index)].copy()


@dataclass(frozen=True)
class EpochDraws:
    """The random numbers of all samples in an epoch, of which `draws[index]` returns those of some.

    Boxes of resized crops are computed only then: ten tries of each image of a
    large dataset would take seconds and gigabytes before an epoch.

    Attributes:
        whole: n rows, in the order of the sample ids.
        boxes: replace those of `whole`; None to keep them.
    """

    whole: Draws
    boxes: CropBoxes | None = None

    def __getitem__(self, index: Int64) -> Draws:
        """Return the draws of some samples, by their ids."""
        draws = self.whole[index]
        return draws if self.boxes is None else dataclasses.replace(draws, box=self.boxes[index])


class Plan:
    """The order and the draws of a training split.

    Args:
        count: number of samples, n.
        seed: 0 or more.
        policy: what to draw.
        sizes: int [n, 2], width and height of the originals in px; needed for
            crop "resized" only.
    """

    def __init__(
        self, count: int, seed: int, policy: Policy, sizes: Integers | None = None
    ) -> None:
        assert policy.crop != "resized" or (sizes is not None and sizes.shape == (count, 2))
        assert 0 <= policy.shift < 128
        self.count = count
        self.seed = seed
        self.policy = policy
        self.sizes = sizes

    def order(self, epoch: int) -> Int64:
        """Return the permutation of the sample ids, int64 [n]."""
        kernels = find_kernels(self.count)
        if kernels is None:
            return self._random(Stream.ORDER, epoch).permutation(self.count)

        order = np.arange(self.count)
        kernels.permute(np.array(_stream_key(self.seed, Stream.ORDER, epoch), np.uint64), order)
        return order

    def draws(self, epoch: int) -> EpochDraws:
        """Return the draws of all samples in this epoch."""
        whole = Draws(
            box=_whole_images(self.count),
            flip=self._draw_flips(epoch),
            shift=self._draw_shifts(epoch),
            cutout=self._draw_cutouts(epoch),
            color=self._draw_colors(epoch),
            erased=self._draw_erased_boxes(epoch),
            operations=self._draw_operations(epoch),
        )
        return EpochDraws(whole, self._draw_boxes(epoch))

    def _random(self, stream: Stream, epoch: int) -> np.random.Generator:
        return random_stream(self.seed, stream, epoch)

    def _draw_flips(self, epoch: int) -> Bool:
        if self.policy.flip == "none":
            return np.zeros(self.count, np.bool_)
        if self.policy.flip == "random":
            return _random_bits(self._random(Stream.FLIP, epoch), self.count)
        return _random_bits(self._random(Stream.FIRST_FLIP, 0), self.count) ^ bool(epoch % 2)

    def _draw_shifts(self, epoch: int) -> Int8:
        if self.policy.crop != "shift" or self.policy.shift == 0:
            return np.zeros((self.count, 2), np.int8)

        largest = self.policy.shift
        random = self._random(Stream.SHIFT, epoch)
        return random.integers(-largest, largest, (self.count, 2), np.int8, endpoint=True)

    def _draw_cutouts(self, epoch: int) -> Float32:
        if self.policy.cutout == 0:
            return np.broadcast_to(np.float32(0), (self.count, 2))
        return self._random(Stream.CUTOUT, epoch).random((self.count, 2), np.float32)

    def _draw_colors(self, epoch: int) -> Int16:
        largest = self.policy.color_jitter
        if largest == 0:
            return np.broadcast_to(np.int16(COLOR_UNIT), (self.count, 3))

        change = 2 * self._random(Stream.COLOR, epoch).random((self.count, 3)) - 1
        return np.rint(COLOR_UNIT * (1 + largest * change)).astype(np.int16)

    def _draw_erased_boxes(self, epoch: int) -> Float32:
        if self.policy.erasing == 0:
            return np.broadcast_to(np.float32(0), (self.count, 4))

        u = self._random(Stream.ERASE, epoch).random((5, self.count))
        area = _ERASED_AREA[0] + (_ERASED_AREA[1] - _ERASED_AREA[0]) * u[1]
        logarithms = np.log(_ERASED_ASPECT)
        aspect = np.exp(logarithms[0] + (logarithms[1] - logarithms[0]) * u[2])
        height = np.minimum(1, np.sqrt(area * aspect))
        width = np.minimum(1, np.sqrt(area / aspect))
        top = u[3] * (1 - height)
        left = u[4] * (1 - width)
        boxes = np.stack([top, left, top + height, left + width], axis=1)
        boxes[u[0] >= self.policy.erasing] = 0

        return boxes.astype(np.float32)

    def _draw_operations(self, epoch: int) -> Int32:
        if self.policy.rand_augment == 0:
            return np.zeros((self.count, 0, len(_NO_OPERATION)), np.int32)

        random = self._random(Stream.OPERATION, epoch)
        return draw_operations(random, self.count, self.policy.rand_augment)

    def _draw_boxes(self, epoch: int) -> CropBoxes | None:
        if self.policy.crop != "resized" or self.sizes is None:
            return None
        key = _stream_key(self.seed, Stream.BOX, epoch)
        return CropBoxes(key, self.sizes, self.policy.area, self.policy.aspect)


def _whole_images(count: int) -> Float32:
    """Return the box of the whole image for each sample, float32 [n, 4], in the memory of one."""
    return np.broadcast_to(np.array([0, 0, 1, 1], np.float32), (count, 4))


class Operation(IntEnum):
    """What an operation of RandAugment does to an image; equalize and sharpness of the paper are left out."""

    IDENTITY = 0
    SHEAR_X = 1
    SHEAR_Y = 2
    TRANSLATE_X = 3
    TRANSLATE_Y = 4
    ROTATE = 5
    BRIGHTNESS = 6
    CONTRAST = 7
    SATURATION = 8
    POSTERIZE = 9
    SOLARIZE = 10
    AUTOCONTRAST = 11


# Matrix and shift, brightness, contrast and saturation, bits that are kept, threshold,
# autocontrast: as `draw_operations` returns them.
_NO_OPERATION = (
    *(GEOMETRY_UNIT, 0, 0, GEOMETRY_UNIT, 0, 0),
    *(COLOR_UNIT, COLOR_UNIT, COLOR_UNIT),
    *(255, 256, 0),
)


def draw_operations(random: np.random.Generator, count: int, magnitude: float) -> Int32:
    """Draw two operations for each image, of the ranges of RandAugment's own code.

    Args:
        random: source of randomness.
        count: number of images, n.
        magnitude: 0 to 10.

    Returns:
        int32 [n, 2, 12]. Columns 0 to 5: output pixel (y, x), from the center, shows
        the pixel (a y + b x + dy, c y + d x + dx), as a, b, c, d, dy, dx in
        1/65536, the last two of the side. 6 to 8: factors as `Draws.color`. 9: the
        bits that are kept. 10: from which value on pixels are inverted. 11:
        whether each channel is stretched to 0..255.
    """
    level = magnitude / _LARGEST_MAGNITUDE
    kind = random.integers(0, len(Operation), (count, _OPERATIONS))
    sign = 2 * random.integers(0, 2, (count, _OPERATIONS)) - 1
    drawn = np.tile(np.array(_NO_OPERATION, np.int32), (count, _OPERATIONS, 1))

    def fill(operation: Operation, column: int, values: Integers | int) -> None:
        drawn[..., column] = np.where(kind == operation, values, drawn[..., column])

    shear = np.rint(sign * 0.3 * level * GEOMETRY_UNIT).astype(np.int64)
    shift = np.rint(sign * 0.45 * level * GEOMETRY_UNIT).astype(np.int64)
    cosine = round(math.cos(math.radians(30 * level)) * GEOMETRY_UNIT)
    sine = np.rint(sign * math.sin(math.radians(30 * level)) * GEOMETRY_UNIT).astype(np.int64)
    factor = np.rint((1 + sign * 0.9 * level) * COLOR_UNIT).astype(np.int64)

    fill(Operation.SHEAR_Y, 1, shear)
    fill(Operation.SHEAR_X, 2, shear)
    fill(Operation.TRANSLATE_Y, 4, shift)
    fill(Operation.TRANSLATE_X, 5, shift)
    for column, values in enumerate((cosine, -sine, sine, cosine)):
        fill(Operation.ROTATE, column, values)
    fill(Operation.BRIGHTNESS, 6, factor)
    fill(Operation.CONTRAST, 7, factor)
    fill(Operation.SATURATION, 8, factor)
    fill(Operation.POSTERIZE, 9, (255 << round(4 * level)) & 255)
    fill(Operation.SOLARIZE, 10, 256 - round(256 * level))
    fill(Operation.AUTOCONTRAST, 11, 1)

    return drawn


def _random_bits(random: np.random.Generator, count: int) -> Bool:
    data = random.bytes(-(-count // 8))
    return np.unpackbits(np.frombuffer(data, np.uint8), count=count).view(np.bool_)


def central_boxes(sizes: Integers, fraction: float) -> Float32:
    """Return the central square of each image, in whole pixels of the original so that every engine cuts the same.

    Args:
        sizes: int [n, 2], width and height in px.
        fraction: side of the square as a fraction of the image's short side,
            above 0 and at most 1.

    Returns:
        float32 [n, 4]: x, y, w, h as fractions of the image.
    """
    side = np.maximum(1, np.rint(fraction * sizes.min(axis=1))).astype(np.int64)[:, None]
    start = (sizes - side) // 2

    return (np.concatenate([start, np.repeat(side, 2, axis=1)], axis=1) / np.tile(sizes, 2)).astype(
        np.float32
    )


def describe_view(eval_crop: float) -> str:
    """Say in words what evaluation sees of an image."""
    if eval_crop == 0:
        return "the whole image"
    return f"the central square of {eval_crop:g} of each image's short side"


def identity(count: int, boxes: Float32 | None = None) -> Draws:
    """Return draws that change nothing, for evaluation.

    Args:
        count: number of samples, n.
        boxes: float32 [n, 4], the part of each image to show, as fractions of it.
            None: the whole image.
    """
    draws = Plan(count, 0, Policy()).draws(0).whole
    return draws if boxes is None else dataclasses.replace(draws, box=boxes)


def training_steps(count: int, batch_size: int) -> int:
    """Return the steps of an epoch: its full batches, at least one (a batch is cut to the number of samples)."""
    return count // min(batch_size, count)


def training_batches(order: Int64, batch_size: int, world_size: int = 1) -> Int64:
    """Divide an epoch: each rank has a contiguous slice of each full global batch.

    The samples left over differ in each epoch.

    Args:
        order: permutation of the sample ids, int64 [n].
        batch_size: global batch, over all ranks; cut to n if larger, then down to
            a multiple of `world_size`.
        world_size: number of ranks.

    Returns:
        int64 [steps, world_size, batch_size / world_size].

    Raises:
        ValueError: there are fewer samples than ranks.
    """
    batch_size = min(batch_size, len(order))
    if batch_size < world_size:
        raise ValueError(
            f"A batch of {batch_size} images cannot be divided among {world_size} processes: use a larger "
            f"--batch-size, or fewer --processes."
        )

    rows = batch_size // world_size
    steps = training_steps(len(order), batch_size)
    whole = order[: steps * batch_size].reshape(steps, batch_size)

    return whole[:, : rows * world_size].reshape(steps, world_size, rows)


def evaluation_batches(count: int, batch_size: int, world_size: int = 1) -> Int64:
    """Divide the samples, in order, into batches of one size: each is there exactly once, then follow -1.

    Returns:
        int64 [steps, world_size, batch_size / world_size].
    """
    rows = max(1, min(batch_size, count) // world_size)
    steps = -(-count // (rows * world_size))
    samples = np.arange(steps * world_size * rows)
    samples[count:] = -1

    return samples.reshape(steps, world_size, rows)
