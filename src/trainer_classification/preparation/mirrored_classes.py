"""Find classes whose images mirror into each other, such as arrows to the left and to the right.

Training on mirror images teaches such classes wrong labels. Small gray copies of
some training images are compared. If mirror images of one class look like another
class, as a rule and the other way round, the two are such a pair.
"""

from __future__ import annotations

import math

import numpy as np

from trainer_classification.arrays import Bool, Float32, Int64, Integers, Uint8
from trainer_classification.data.source import Source

SIDE = 16  # px, of the copies
MAX_IMAGES = 2048  # of all classes together: what bounds the time
_CHANCE = 0.01  # that a rate is "most" by luck
# 1.0 for arrows to the left and the right. Where only two classes are there, and
# so one must be the nearest, 0.6 for MNIST's 3 and 5, and at most 0.7 for pairs of
# Caltech-101.
_MIN_LIKENESS = 0.85
_SMALLEST_NORM = 1e-6


def choose_compared(source: Source, measured: Bool) -> Bool:
    """Choose the images to compare among those that are decoded anyway, about as many of each class.

    Args:
        source: of the n images.
        measured: bool [n], the training images that count for the statistics.

    Returns:
        bool [n], True for at most `MAX_IMAGES`.
    """
    labels = np.where(measured, source.labels, -1)
    per_class = MAX_IMAGES // max(1, len(source.class_names))
    compared = np.zeros(len(labels), bool)
    if not per_class:
        return compared

    by_class = np.argsort(labels, kind="stable")
    for rows in np.split(by_class, np.flatnonzero(np.diff(labels[by_class])) + 1):
        if len(rows) and labels[rows[0]] >= 0:
            spread = np.linspace(0, len(rows) - 1, min(per_class, len(rows))).astype(int)
            compared[rows[spread]] = True

    return compared


def find_mirrored_classes(
    thumbnails: Uint8, labels: Integers, class_names: list[str]
) -> list[list[str]]:
    """Return the pairs of classes that mirror into each other.

    An image matches the one that it correlates with most, or with the negative of it. Two classes are a
    pair if, for both, most images match their own class, and most of their mirror
    images the other one. "Most" is more than half by a sign test, which takes
    seven images of a class or more. On average, the mirror images of one must also
    match the other nearly as well as images of one class match each other.

    Args:
        thumbnails: uint8 [n, SIDE, SIDE], of `decode.make_thumbnail`.
        labels: integers [n].
        class_names: index = label.

    Returns:
        Two names each, in the order of the classes.
    """
    if not len(labels):
        return []
    shape = (len(labels), -1)
    plain = _normalize(thumbnails.reshape(shape))
    mirrored = _normalize(thumbnails[:, :, ::-1].reshape(shape))
    own = labels[_match(plain, plain)] == labels
    other = labels[_match(mirrored, plain)]

    partners = {}
    for label in np.unique(labels).tolist():
        rows = labels == label
        partner = int(np.bincount(other[rows]).argmax())
        if _is_most(own[rows]) and _is_most(other[rows] == partner):
            partners[label] = partner

    return [
        [class_names[label], class_names[partner]]
        for label, partner in partners.items()
        if label < partner
        and partners.get(partner) == label
        and _likeness(mirrored[labels == label], plain[labels == partner]) > _MIN_LIKENESS
    ]


def _normalize(pixels: Uint8) -> Float32:
    """Return rows of mean 0 and norm 1, whose products are correlations; constant rows become 0."""
    rows = pixels.astype(np.float32)
    rows -= rows.mean(1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _SMALLEST_NORM)


def _match(queries: Float32, images: Float32) -> Int64:
    """Return the nearest image of each query, other than the one it was made of: int64 [n]."""
    correlations = _correlate(queries, images)
    np.fill_diagonal(correlations, -1)
    return np.asarray(correlations.argmax(1), np.int64)


def _likeness(mirrored: Float32, images: Float32) -> float:
    """Return how well the mirror images of a class match another class, of how well both match themselves.

    Args:
        mirrored: mirror images of one class, as `_normalize` returns them.
        images: of another class.
    """
    between = float(_correlate(mirrored, images).mean())
    return between / math.sqrt(_match_itself(mirrored) * _match_itself(images))


def _match_itself(images: Float32) -> float:
    """Return the mean match of two different images of a class."""
    matches = _correlate(images, images)
    np.fill_diagonal(matches, 0)
    count = len(images)
    return max(float(matches.sum()) / (count * (count - 1)), _SMALLEST_NORM)


def _correlate(queries: Float32, images: Float32) -> Float32:
    """Return squared correlations, float32 [n, m]: what is bright may as well be dark."""
    correlations = queries @ images.T
    return np.square(correlations, out=correlations)


def _is_most(hits: Bool) -> bool:
    """Return True if so many of a class are hits that half of them, or fewer, would rarely be."""
    count = len(hits)
    tail = sum(math.comb(count, number) for number in range(int(hits.sum()), count + 1))
    return tail < _CHANCE * 2**count
