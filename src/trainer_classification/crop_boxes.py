"""Draw the boxes of random resized crops, each by itself, from its sample's place in a stream of random numbers.

The stream is that of `numpy.random.Generator(Philox(key)).random((4, n, 10), float32)`:
area, aspect, x and y of ten tries for each of n samples. Philox is counter-based,
so any number of the stream is computed from its position alone (Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011). A batch therefore costs
what its own samples cost, whatever their order and however many there are.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import numpy.typing as npt

from trainer_classification.arrays import Float32, Float64, Int64, Integers

UInt64 = npt.NDArray[np.uint64]

TRIES = 10  # of a resized crop before the fallback, as in torchvision

_MANY = 100_000  # samples for which it pays to load numba, which takes half a second
# Philox4x64-10: a block has four words of 64 bits, each of which gives two floats.
FLOATS_PER_BLOCK = 8
_ROUNDS = 10
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_LOW_HALF = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


@dataclass(frozen=True)
class CropBoxes:
    """The boxes of all samples in an epoch, as torchvision's RandomResizedCrop draws them.

    `boxes[index]` computes those of some samples. A box has whole pixels. It is the
    first of ten tries that lies within the image. Where none does, it is the
    largest central box of an allowed aspect.

    Attributes:
        key: the two words of the stream's key.
        sizes: int [n, 2], width and height of all images in px.
        area: smallest and largest share of the image's area.
        aspect: smallest and largest width / height, drawn evenly in the logarithm.
    """

    key: tuple[int, int]
    sizes: Integers
    area: tuple[float, float]
    aspect: tuple[float, float]

    def __getitem__(self, index: Int64) -> Float32:
        """Return float32 [B, 4]: x, y, w, h of each sample's box as fractions of its image.

        Args:
            index: int64 [B], sample ids, 0 or more.
        """
        kernels = find_kernels(len(self.sizes))
        if kernels is None:
            return self.draw_with_numpy(index)

        sizes = self.sizes[index].astype(np.float64)
        boxes = np.empty((len(index), 4), np.float32)
        kernels.draw_crop_boxes(
            np.array(self.key, np.uint64), len(self.sizes), index, sizes, self._ranges(), boxes
        )
        return boxes

    def draw_with_numpy(self, index: Int64) -> Float32:
        """Return what `__getitem__` returns, without numba: best for thousands of samples at once."""
        sizes = self.sizes[index].astype(np.float64)
        width = sizes[:, 0]
        height = sizes[:, 1]

        w, h, tried = self._try(index, sizes, range(1))
        others = np.flatnonzero(tried < 0)
        if len(others):
            found = self._try(index[others], sizes[others], range(1, TRIES))
            w[others], h[others], tried[others] = found

        is_fallback = tried < 0
        fallback_w = np.maximum(1, np.rint(np.minimum(width, height * self.aspect[1])))
        fallback_h = np.maximum(1, np.rint(np.minimum(height, width / self.aspect[0])))
        w = np.where(is_fallback, fallback_w, w)
        h = np.where(is_fallback, fallback_h, h)

        u_x, u_y = self._uniform((2, 3), index, tried)
        x = np.where(is_fallback, np.floor((width - w) / 2), np.floor(u_x * (width - w + 1)))
        y = np.where(is_fallback, np.floor((height - h) / 2), np.floor(u_y * (height - h + 1)))
        x = np.minimum(x, width - w)
        y = np.minimum(y, height - h)

        return np.stack([x / width, y / height, w / width, h / height], axis=1).astype(np.float32)

    def _ranges(self) -> Float64:
        """Return what scales the numbers of a try, float64 [6].

        They are start and extent of the area, start and extent of the aspect's
        logarithm, and the smallest and the largest aspect.
        """
        area = (self.area[0], self.area[1] - self.area[0])
        log_aspect = (np.log(self.aspect[0]), np.log(self.aspect[1] / self.aspect[0]))
        return np.array([*area, *log_aspect, *self.aspect], np.float64)

    def _try(self, index: Int64, sizes: Float64, tries: range) -> tuple[Float64, Float64, Int64]:
        """Return width, height and number of the first try that fits, each [B]; number -1 where none does."""
        start_area, extent_area, start_aspect, extent_aspect, *_ = self._ranges()
        rows = np.arange(len(index))
        number = np.array(tries)

        width = sizes[:, :1]
        height = sizes[:, 1:]
        u_area, u_aspect = self._uniform((0, 1), index[:, None], number)
        target_area = (start_area + extent_area * u_area) * (width * height)
        ratio = np.exp(start_aspect + extent_aspect * u_aspect)
        w = np.rint(np.sqrt(target_area * ratio))
        h = np.rint(np.sqrt(target_area / ratio))

        fits = (w >= 1) & (h >= 1) & (w <= width) & (h <= height)
        first = np.argmax(fits, axis=1)
        return w[rows, first], h[rows, first], np.where(fits.any(axis=1), number[first], -1)

    def _uniform(self, components: tuple[int, int], index: Int64, number: Int64) -> Float64:
        """Return the numbers 0 <= u < 1 of two components (area, aspect, x, y) of a try of each sample."""
        place = index * TRIES + np.maximum(number, 0)
        starts = np.array(components) * len(self.sizes) * TRIES
        return random_floats(self.key, starts.reshape(2, *[1] * place.ndim) + place)


def random_floats(key: tuple[int, int], position: Int64) -> Float64:
    """Return the float32 numbers at some positions of a Philox stream, exactly, as float64.

    Args:
        key: the two words of the key.
        position: int64, any shape, which number of
            `numpy.random.Generator(Philox(key)).random(..., float32)`.
    """
    block = (position // FLOATS_PER_BLOCK).astype(np.uint64)
    half = position % FLOATS_PER_BLOCK
    words = np.stack(_philox(key, block + np.uint64(1)))  # numpy's first counter is 1

    word = np.take_along_axis(words, half[None] // 2, axis=0)[0]
    bits = (word >> (half % 2 * 32).astype(np.uint64)) & _LOW_HALF
    return (bits >> np.uint64(8)) * 2.0**-24


def _philox(key: tuple[int, int], counter: UInt64) -> tuple[UInt64, UInt64, UInt64, UInt64]:
    """Return the four words of each counter's block."""
    zeros = np.zeros_like(counter)
    words = (counter, zeros, zeros, zeros)
    for number in range(_ROUNDS):
        key_0, key_1 = (
            np.uint64((start + number * step) % 2**64)
            for start, step in zip(key, _WEYL_STEPS, strict=True)
        )
        high_0, low_0 = _multiply(_MULTIPLIERS[0], words[0])
        high_1, low_1 = _multiply(_MULTIPLIERS[1], words[2])
        words = (high_1 ^ words[1] ^ key_0, low_1, high_0 ^ words[3] ^ key_1, low_0)
    return words


def _multiply(a: int, b: UInt64) -> tuple[UInt64, UInt64]:
    """Return the upper and the lower 64 bits of a product."""
    a_low = np.uint64(a & 0xFFFFFFFF)
    a_high = np.uint64(a >> 32)
    b_low = b & _LOW_HALF
    b_high = b >> _HALF

    middle = a_high * b_low + (a_low * b_low >> _HALF)
    other = a_low * b_high + (middle & _LOW_HALF)
    high = a_high * b_high + (middle >> _HALF) + (other >> _HALF)
    return high, np.uint64(a) * b


def find_kernels(count: int) -> ModuleType | None:
    """Return the compiled code, or None where numba is not installed or would take longer to load than it saves.

    Args:
        count: samples of the split.
    """
    if "numba" not in sys.modules and count < _MANY:
        return None
    return load_kernels()


def load_kernels() -> ModuleType | None:
    """Return the compiled code, or None where numba is not installed."""
    try:
        from trainer_classification.kernels import draws
    except ImportError:
        return None
    return draws
