"""Check that a loader delivered the work it was given, so that none wins by skipping some of it.

The timed part keeps only a few bytes of each batch: labels, sample ids and
sixteen pixels of each image. All checks come after it. One epoch that is not
timed is checked in every pixel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

_GRID = 4  # pixels kept of an image, in each direction
# The tolerances of a loader; see Expected.
_MEAN_TOLERANCE = 8.0
_SPREAD_TOLERANCE = 0.15
_LEAST_DISTINCT = 0.8
_LEAST_FIT = 0.5
_SIGNIFICANT_FIT = 0.25  # five standard deviations, for the 500 images that it is computed from


@dataclass
class Delivery:
    """A batch of any library.

    Reference rates and stages, which make no batches, give only `count`.

    Attributes:
        count: number of images B.
        images: uint8 [B, H, W, C] or [B, C, H, W].
        labels: [B].
        index: sample ids [B], where the library has them.
    """

    count: int
    images: Tensor | None = None
    labels: Tensor | None = None
    index: Tensor | None = None


class Candidate(Protocol):
    """Something to measure: an epoch that can be repeated.

    Attributes:
        files: the files it reads, which are dropped from the page cache before
            the cold epoch.
    """

    files: list[str]

    def epoch(self, number: int) -> Iterator[Delivery]:
        """Yield one pass over the split, with each batch ready for the next training step."""
        ...

    def planned(self, number: int) -> Int64 | None:
        """Return the sample ids of an epoch in order, or None where they are not known in advance."""
        ...

    def close(self) -> None:
        """Free threads, processes and memory."""
        ...


@dataclass(frozen=True)
class Expected:
    """What an epoch must look like, computed from the original files with Pillow, independently of any loader.

    Attributes:
        image_size: side of the images in px.
        labels: int64 [n], of the split.
        missing: most samples that may be left out: those of a last batch that
            would not be full.
        mean, spread: mean and standard deviation of all bytes of the augmented
            images. A loader may be off by 8 of 255 and by 15 %, since resampling
            filters, the fill of a shift and JPEG compression differ.
        distinct: share of images whose kept pixels no other image has. A loader
            must reach 80 % of it.
        random: two epochs differ.
        brightness: float [classes], mean of the kept pixels of each class's
            images, nan for a class not looked at.
        fit: `fit` of half of the images with the class brightness of the other
            half. A loader must reach half of it, where it is significant.
    """

    image_size: int
    labels: Int64
    missing: int
    mean: float
    spread: float
    distinct: float
    random: bool
    brightness: Sequence[float]
    fit: float


@dataclass
class Seen:
    """The few bytes that are kept of an epoch."""

    count: int = 0
    labels: list[Tensor] = field(default_factory=list)
    index: list[Tensor] = field(default_factory=list)
    pixels: list[Tensor] = field(default_factory=list)

    def add(self, delivery: Delivery) -> None:
        """Keep a few bytes of a batch, without waiting for the device."""
        self.count += delivery.count
        if delivery.images is not None:
            self.pixels.append(grid(nhwc(delivery.images)))
        if delivery.labels is not None:
            self.labels.append(delivery.labels.clone())
        if delivery.index is not None:
            self.index.append(delivery.index.clone())


def nhwc(images: Tensor) -> Tensor:
    """Return a view of the images with the channels last."""
    return images if images.shape[-1] in (1, 3) else images.permute(0, 2, 3, 1)


def grid(images: Tensor) -> Tensor:
    """Return a copy of sixteen pixels of each image [B, H, W, C], as uint8 [B, 4, 4, C]."""
    step = [max(1, side // _GRID) for side in images.shape[1:3]]
    return images[:, step[0] // 2 :: step[0], step[1] // 2 :: step[1]].clone()


def check(seen: Seen, expected: Expected, planned: Int64 | None) -> int:
    """Check an epoch against what it must look like.

    Args:
        seen: what was kept of it.
        expected: what it must look like.
        planned: its sample ids in order, or None where the library shuffles by
            itself.

    Returns:
        A hash of the kept pixels that does not depend on the order of the
        samples.

    Raises:
        AssertionError: the epoch differs. The text says how.
    """
    labels = torch.cat(seen.labels).flatten().cpu().numpy().astype(np.int64)
    assert seen.count == len(labels), f"{seen.count} images came with {len(labels)} labels"
    if planned is not None:
        delivered = torch.cat(seen.index).cpu().numpy()
        assert np.array_equal(delivered, planned), (
            "the samples are not those planned, in their order"
        )
        assert np.array_equal(labels, expected.labels[planned]), (
            "labels do not belong to their samples"
        )
    _check_labels(labels, expected)
    pixels = torch.cat(seen.pixels).cpu().numpy().reshape(seen.count, -1)
    _check_pixels(pixels, expected)
    if planned is None:
        _check_fit(pixels, labels, expected)
    return int(row_hashes(pixels).sum())


def _check_labels(labels: Int64, expected: Expected) -> None:
    most = len(expected.labels)
    least = most - expected.missing
    assert least <= len(labels) <= most, f"{len(labels)} images delivered of {most}"
    classes = int(max(labels.max(), expected.labels.max())) + 1
    delivered_counts = np.bincount(labels, minlength=classes)
    split_counts = np.bincount(expected.labels, minlength=classes)
    assert (delivered_counts <= split_counts).all(), "the labels are not those of the split"


def _check_pixels(pixels: npt.NDArray[np.uint8], expected: Expected) -> None:
    assert pixels.dtype == np.uint8, f"pixels are {pixels.dtype}, not uint8"
    mean = float(pixels.mean())
    spread = float(pixels.std())
    assert abs(mean - expected.mean) <= _MEAN_TOLERANCE, (
        f"the mean pixel is {mean:.1f}, not near {expected.mean:.1f}"
    )
    assert abs(spread / expected.spread - 1) <= _SPREAD_TOLERANCE, (
        f"pixels spread by {spread:.1f}, not {expected.spread:.1f}"
    )
    share = distinct(pixels)
    assert share >= _LEAST_DISTINCT * expected.distinct, (
        f"{share:.0%} of the images are distinct, not {expected.distinct:.0%}"
    )


def _check_fit(pixels: npt.NDArray[np.uint8], labels: Int64, expected: Expected) -> None:
    """Check that labels belong to their images.

    Shuffled labels pass every count, but then all classes look alike.
    """
    if not expected.fit > _SIGNIFICANT_FIT:
        return
    found = fit(pixels.mean(axis=1), labels, np.asarray(expected.brightness))
    assert found >= _LEAST_FIT * expected.fit, (
        f"labels fit their images by {found:.2f}, not {expected.fit:.2f}"
    )


def fit(brightness: Float64, labels: Int64, class_brightness: Float64) -> float:
    """Return the correlation of each image's brightness with that of its class, or nan if no class is known."""
    known = ~np.isnan(class_brightness[labels])
    if not known.any():
        return float("nan")
    with np.errstate(invalid="ignore"):  # division by zero where all are equal
        return float(np.corrcoef(brightness[known], class_brightness[labels[known]])[0, 1])


def class_means(brightness: Float64, labels: Int64, classes: int) -> Float64:
    """Return the mean brightness of each class, float [classes], nan for a class without images."""
    with np.errstate(invalid="ignore"):
        return np.bincount(labels, brightness, classes) / np.bincount(labels, minlength=classes)


def distinct(pixels: npt.NDArray[np.uint8]) -> float:
    """Return the share of rows that differ from all rows before them."""
    return len(np.unique(row_hashes(pixels))) / len(pixels)


def row_hashes(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Return a hash of each row, uint64 [n], by multiplication with fixed random odd numbers."""
    factors = np.random.Generator(np.random.Philox(key=0)).integers(
        0, 2**63, pixels.shape[1], np.uint64
    )
    return pixels.astype(np.uint64) @ (factors * np.uint64(2) + np.uint64(1))


def audit(candidate: Candidate, number: int, expected: Expected) -> dict[str, Any]:
    """Check every pixel of an epoch: shapes, dtype, and a checksum that repeats if the loader is deterministic.

    Raises:
        AssertionError: the epoch differs from what is expected. The text says
            how.
    """
    seen = Seen()
    total = 0
    side = expected.image_size
    for delivery in candidate.epoch(number):
        assert delivery.images is not None
        images = nhwc(delivery.images)
        assert images.dtype == torch.uint8, f"images are {images.dtype}, not uint8"
        assert images.shape[1:3] == (side, side), (
            f"images are {tuple(images.shape[1:3])}, not {side} px"
        )
        seen.add(delivery)
        # Not with torch: its sum copies to int64, eight times the size, which
        # grew to a gigabyte beside the loaders.
        total += int(images.cpu().numpy().sum(dtype=np.int64))
    pixel_hash = check(seen, expected, candidate.planned(number))

    return {"images": seen.count, "checksum": f"{(pixel_hash + total) % 2**64:016x}"}
