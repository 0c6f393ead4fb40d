"""What a loader delivered, and whether that was the work it was given: nothing may win by skipping some.

In the timed part only a few bytes of each batch are kept (labels, sample ids, sixteen pixels of each image); all checks
come after. An untimed epoch looks at every pixel.
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
_MEAN, _SPREAD, _DISTINCT, _FIT = 8.0, 0.15, 0.8, 0.5  # see Expected
_TELLS = 0.25  # least fit that says anything: five deviations, of the 500 images that it is computed from


@dataclass
class Delivery:
    """A batch from any library: uint8 images [B, H, W, C] or [B, C, H, W], labels [B], sample ids [B] if it has them.

    A ceiling that makes no batches gives the number of its images alone.
    """

    count: int
    images: Tensor | None = None
    labels: Tensor | None = None
    index: Tensor | None = None


class Candidate(Protocol):
    """What can be measured: an epoch that can be repeated.

    Attributes:
        files: what it reads, to be dropped from the page cache before the cold epoch.
    """

    files: list[str]

    def epoch(self, number: int) -> Iterator[Delivery]:
        """One pass over the split, ready for the device's next step."""
        ...

    def planned(self, number: int) -> Int64 | None:
        """The sample ids of that epoch in order, where they are known in advance."""
        ...

    def close(self) -> None:
        """Free threads, processes and memory."""
        ...


@dataclass(frozen=True)
class Expected:
    """What an epoch must be like, from the original files by Pillow, independent of any loader.

    Attributes:
        image_size: side in px.
        labels: int64 [n], of the split.
        missing: at most so many samples may be left out, those of a last batch that would not be full.
        mean, spread: of all bytes of the augmented images; a loader may be off by 8 of 255 and by 15 %, for resampling
            filters, what a shift brings in, and JPEG compression differ.
        distinct: share of images whose kept pixels no other has; a loader must reach 80 % of it.
        random: whether two epochs differ.
        brightness: float [classes], mean of the kept pixels of each class's images; nan: of none that was looked at.
        fit: of half of the images with the brightness of the other half's classes, see `fit`; a loader must reach half
            of it, where it says anything.
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
    """What is kept of an epoch."""

    count: int = 0
    labels: list[Tensor] = field(default_factory=list)
    index: list[Tensor] = field(default_factory=list)
    pixels: list[Tensor] = field(default_factory=list)

    def add(self, delivery: Delivery) -> None:
        """Keep a few bytes of a batch; waits for no device."""
        self.count += delivery.count
        if delivery.images is not None:
            self.pixels.append(grid(nhwc(delivery.images)))
        if delivery.labels is not None:
            self.labels.append(delivery.labels.clone())
        if delivery.index is not None:
            self.index.append(delivery.index.clone())


def nhwc(images: Tensor) -> Tensor:
    """A view of the images with the channels last."""
    return images if images.shape[-1] in (1, 3) else images.permute(0, 2, 3, 1)


def grid(images: Tensor) -> Tensor:
    """A copy of sixteen pixels of each image [B, H, W, C]: uint8 [B, 4, 4, C]."""
    step = [max(1, side // _GRID) for side in images.shape[1:3]]
    return images[:, step[0] // 2 :: step[0], step[1] // 2 :: step[1]].clone()


def check(seen: Seen, expected: Expected, planned: Int64 | None) -> int:
    """Check an epoch against what it had to be.

    Returns:
        A hash of the kept pixels that does not depend on the order of the samples.

    Raises:
        AssertionError: says what is wrong.
    """
    labels = torch.cat(seen.labels).flatten().cpu().numpy().astype(np.int64)
    assert seen.count == len(labels), f"{seen.count} images came with {len(labels)} labels"
    if planned is not None:
        delivered = torch.cat(seen.index).cpu().numpy()
        assert np.array_equal(delivered, planned), "the samples are not those planned, in their order"
        assert np.array_equal(labels, expected.labels[planned]), "labels do not belong to their samples"
    _check_labels(labels, expected)
    pixels = torch.cat(seen.pixels).cpu().numpy().reshape(seen.count, -1)
    _check_pixels(pixels, expected)
    if planned is None:
        _check_fit(pixels, labels, expected)
    return int(row_hashes(pixels).sum())


def _check_labels(labels: Int64, expected: Expected) -> None:
    least, most = len(expected.labels) - expected.missing, len(expected.labels)
    assert least <= len(labels) <= most, f"{len(labels)} images delivered of {most}"
    classes = int(max(labels.max(), expected.labels.max())) + 1
    counts, wanted = (np.bincount(of, minlength=classes) for of in (labels, expected.labels))
    assert (counts <= wanted).all(), "the labels are not those of the split"


def _check_pixels(pixels: npt.NDArray[np.uint8], expected: Expected) -> None:
    assert pixels.dtype == np.uint8, f"pixels are {pixels.dtype}, not uint8"
    mean, spread = float(pixels.mean()), float(pixels.std())
    assert abs(mean - expected.mean) <= _MEAN, f"the mean pixel is {mean:.1f}, not near {expected.mean:.1f}"
    assert abs(spread / expected.spread - 1) <= _SPREAD, f"pixels spread by {spread:.1f}, not {expected.spread:.1f}"
    share = distinct(pixels)
    assert share >= _DISTINCT * expected.distinct, (
        f"{share:.0%} of the images are distinct, not {expected.distinct:.0%}"
    )


def _check_fit(pixels: npt.NDArray[np.uint8], labels: Int64, expected: Expected) -> None:
    """Labels that were shuffled among the images are as many as they should be; but then the classes look alike."""
    if not expected.fit > _TELLS:
        return
    found = fit(pixels.mean(axis=1), labels, np.asarray(expected.brightness))
    assert found >= _FIT * expected.fit, f"labels fit their images by {found:.2f}, not {expected.fit:.2f}"


def fit(brightness: Float64, labels: Int64, of_class: Float64) -> float:
    """Correlation of each image's brightness with that of its class; nan where nothing can be said."""
    known = ~np.isnan(of_class[labels])
    if not known.any():
        return float("nan")
    with np.errstate(invalid="ignore"):  # all are alike
        return float(np.corrcoef(brightness[known], of_class[labels[known]])[0, 1])


def class_means(brightness: Float64, labels: Int64, classes: int) -> Float64:
    """Float [classes]; nan for a class without images."""
    with np.errstate(invalid="ignore"):
        return np.bincount(labels, brightness, classes) / np.bincount(labels, minlength=classes)


def distinct(pixels: npt.NDArray[np.uint8]) -> float:
    """Share of rows that differ from all before them."""
    return len(np.unique(row_hashes(pixels))) / len(pixels)


def row_hashes(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """A hash of each row: uint64 [n], by multiplication with fixed random odd numbers."""
    factors = np.random.Generator(np.random.Philox(key=0)).integers(0, 2**63, pixels.shape[1], np.uint64)
    return pixels.astype(np.uint64) @ (factors * np.uint64(2) + np.uint64(1))


def audit(candidate: Candidate, number: int, expected: Expected) -> dict[str, Any]:
    """Look at every pixel of an epoch: shapes, type, and a checksum that repeats if the loader is deterministic.

    Raises:
        AssertionError: says what is wrong.
    """
    seen, total = Seen(), 0
    side = expected.image_size
    for delivery in candidate.epoch(number):
        assert delivery.images is not None
        images = nhwc(delivery.images)
        assert images.dtype == torch.uint8, f"images are {images.dtype}, not uint8"
        assert images.shape[1:3] == (side, side), f"images are {tuple(images.shape[1:3])}, not {side} px"
        seen.add(delivery)
        # Not by torch, whose sum copies to eight times the size: among what loaders keep, that grew to a gigabyte.
        total += int(images.cpu().numpy().sum(dtype=np.int64))
    hashed = check(seen, expected, candidate.planned(number))
    return {"images": seen.count, "checksum": f"{(hashed + total) % 2**64:016x}"}
