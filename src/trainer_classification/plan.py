"""Order and augmentation of every epoch, drawn once: pure functions of (seed, epoch).

The draws belong to the sample, not to its place: batch size, rank, world size, worker count and engine change nothing,
and the state of a run is (epoch, step). Randomness is Philox, a counter-based generator (Salmon et al., "Parallel
random numbers: as easy as 1, 2, 3", SC 2011), keyed by (seed, purpose, epoch).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]

_CANDIDATES = 10  # tries of a resized crop before the fallback, as torchvision
_ORDER, _FLIP, _SHIFT, _BOX, _CUTOUT, _PARITY = range(6)  # purposes: each draw has a stream of its own


@dataclass(frozen=True)
class Policy:
    """How training images are augmented. The default changes nothing.

    Attributes:
        crop: "none" (the whole image), "shift" (by up to `shift` px, for small images) or "resized" (a random box).
        shift: largest shift in px, for crop "shift".
        pad: what a shift brings in from outside: "reflect" (without the edge pixel, as numpy's) or "zero".
        area: least and largest share of the image's area of a resized crop.
        aspect: least and largest width / height of a resized crop.
        flip: "none", "random", or "alternating" (Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024):
            a sample is flipped in every other epoch, half of them starting flipped.
        cutout: side in px of a blanked square (DeVries and Taylor, arXiv 1708.04552); 0 for none.
        fill: grey value 0..255 of that square; the default is near the mean of photographs.
    """

    crop: Literal["none", "shift", "resized"] = "none"
    shift: int = 0
    pad: Literal["reflect", "zero"] = "reflect"
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: Literal["none", "random", "alternating"] = "none"
    cutout: int = 0
    fill: int = 114


@dataclass(frozen=True)
class Draws:
    """What was drawn for each sample; every array has one row a sample, in the order of the sample ids.

    Attributes:
        box: float32 [n, 4], x, y, w, h as fractions of the original image.
        flip: bool [n], mirrored left to right, after the crop.
        shift: int8 [n, 2], dy, dx: output pixel (y, x) shows input pixel (y + dy, x + dx).
        cutout: float32 [n, 2], centre y, x of the blanked square as fractions of the output image, after the flip.
    """

    box: npt.NDArray[np.float32]
    flip: npt.NDArray[np.bool_]
    shift: npt.NDArray[np.int8]
    cutout: npt.NDArray[np.float32]

    def __getitem__(self, index: Int64) -> Draws:
        return Draws(self.box[index], self.flip[index], self.shift[index], self.cutout[index])


class Plan:
    """The order and draws of a training split.

    Args:
        count: number of samples, n.
        seed: 0 or more.
        policy: what to draw.
        sizes: int [n, 2], width and height of the originals in px; needed for crop "resized" only.
    """

    def __init__(
        self, count: int, seed: int, policy: Policy, sizes: npt.NDArray[np.signedinteger[Any]] | None = None
    ) -> None:
        assert policy.crop != "resized" or (sizes is not None and sizes.shape == (count, 2))
        assert 0 <= policy.shift < 128
        self.count, self.seed, self.policy, self.sizes = count, seed, policy, sizes

    def order(self, epoch: int) -> Int64:
        """Permutation of the sample ids, int64 [n]."""
        return self._random(_ORDER, epoch).permutation(self.count)

    def draws(self, epoch: int) -> Draws:
        """Draws of all samples in this epoch."""
        return Draws(self._box(epoch), self._flip(epoch), self._shift(epoch), self._cutout(epoch))

    def _random(self, purpose: int, epoch: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=np.array([self.seed, purpose << 32 | epoch], np.uint64)))

    def _flip(self, epoch: int) -> npt.NDArray[np.bool_]:
        if self.policy.flip == "none":
            return np.zeros(self.count, np.bool_)
        if self.policy.flip == "random":
            return _bits(self._random(_FLIP, epoch), self.count)
        return _bits(self._random(_PARITY, 0), self.count) ^ bool(epoch % 2)

    def _shift(self, epoch: int) -> npt.NDArray[np.int8]:
        if self.policy.crop != "shift" or self.policy.shift == 0:
            return np.zeros((self.count, 2), np.int8)
        reach = self.policy.shift
        return self._random(_SHIFT, epoch).integers(-reach, reach, (self.count, 2), np.int8, endpoint=True)

    def _cutout(self, epoch: int) -> npt.NDArray[np.float32]:
        if self.policy.cutout == 0:
            return np.zeros((self.count, 2), np.float32)
        return self._random(_CUTOUT, epoch).random((self.count, 2), np.float32)

    def _box(self, epoch: int) -> npt.NDArray[np.float32]:
        if self.policy.crop != "resized" or self.sizes is None:
            return np.tile(np.array([0, 0, 1, 1], np.float32), (self.count, 1))
        return resized_crop_boxes(self._random(_BOX, epoch), self.sizes, self.policy.area, self.policy.aspect)


def _bits(random: np.random.Generator, count: int) -> npt.NDArray[np.bool_]:
    return np.unpackbits(np.frombuffer(random.bytes(-(-count // 8)), np.uint8), count=count).view(np.bool_)


def resized_crop_boxes(
    random: np.random.Generator,
    sizes: npt.NDArray[np.signedinteger[Any]],
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> npt.NDArray[np.float32]:
    """Boxes of whole pixels with a random area and aspect, as torchvision's RandomResizedCrop draws them.

    The first of ten tries that lies within the image; where none does, the largest central box of allowed aspect.

    Args:
        random: source of randomness.
        sizes: int [n, 2], width and height in px.
        area: least and largest share of the image's area.
        aspect: least and largest width / height, drawn evenly in the logarithm.

    Returns:
        float32 [n, 4]: x, y, w, h as fractions of the image.
    """
    count = len(sizes)
    width, height = sizes[:, 0].astype(np.float64), sizes[:, 1].astype(np.float64)
    u = random.random((4, count, _CANDIDATES), np.float32).astype(np.float64)
    target = (area[0] + (area[1] - area[0]) * u[0]) * (width * height)[:, None]
    ratio = np.exp(np.log(aspect[0]) + np.log(aspect[1] / aspect[0]) * u[1])
    w, h = np.rint(np.sqrt(target * ratio)), np.rint(np.sqrt(target / ratio))
    fits = (w >= 1) & (h >= 1) & (w <= width[:, None]) & (h <= height[:, None])
    first = np.argmax(fits, axis=1)
    rows, found = np.arange(count), fits.any(axis=1)
    fallback_w = np.maximum(1, np.rint(np.minimum(width, height * aspect[1])))
    fallback_h = np.maximum(1, np.rint(np.minimum(height, width / aspect[0])))
    w, h = np.where(found, w[rows, first], fallback_w), np.where(found, h[rows, first], fallback_h)
    x = np.where(found, np.floor(u[2][rows, first] * (width - w + 1)), np.floor((width - w) / 2))
    y = np.where(found, np.floor(u[3][rows, first] * (height - h + 1)), np.floor((height - h) / 2))
    x, y = np.minimum(x, width - w), np.minimum(y, height - h)
    return np.stack([x / width, y / height, w / width, h / height], axis=1).astype(np.float32)


def identity(count: int) -> Draws:
    """Draws that change nothing: evaluation."""
    return Plan(count, 0, Policy()).draws(0)


def training_steps(count: int, batch_size: int) -> int:
    """Steps of an epoch: the full batches, at least one (a batch is cut to the number of samples)."""
    return count // min(batch_size, count)


def training_batches(
    order: Int64, batch_size: int, rank: int = 0, world_size: int = 1, start_step: int = 0
) -> Iterator[Int64]:
    """This rank's contiguous slice of each full global batch; the left-over differs each epoch.

    Args:
        order: permutation of the sample ids, int64 [n].
        batch_size: global batch, over all ranks; cut to n if larger, then down to a multiple of `world_size`.
        rank: which slice.
        world_size: number of slices.
        start_step: first step wanted, to resume.

    Raises:
        ValueError: there are fewer samples than ranks.
    """
    batch_size = min(batch_size, len(order))
    if batch_size < world_size:
        raise ValueError(f"A batch of {batch_size} images cannot be shared by {world_size} processes: use fewer GPUs.")
    share = batch_size // world_size
    for step in range(start_step, len(order) // batch_size):
        start = step * batch_size + rank * share
        yield order[start : start + share]


def evaluation_batches(count: int, batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[tuple[Int64, int]]:
    """Every sample exactly once over all ranks, in order, in batches of one size.

    Yields:
        (index, real): int64 [batch_size / world_size] padded with -1, and how many of its rows are real. All ranks
        yield equally many batches.
    """
    share = max(1, min(batch_size, count) // world_size)
    for start in range(0, count, share * world_size):
        first = start + rank * share
        index = np.arange(first, first + share, dtype=np.int64)
        index[index >= count] = -1
        yield index, int(np.count_nonzero(index >= 0))
