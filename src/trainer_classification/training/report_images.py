"""Collect the images that a report shows: mistakes, likely wrong labels, unsure hits, and a training batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trainer_classification.arrays import Float32, Int64, Uint8
from trainer_classification.data.table import open_table
from trainer_classification.metrics.image_scores import (
    ImageScores,
    rank_mistakes,
    rank_unsure_hits,
)
from trainer_classification.outputs.report import Gallery, Neighbor, ShownImage
from trainer_classification.outputs.thumbnails import Thumbnails
from trainer_classification.training.features import FrozenNetwork, open_kept
from trainer_classification.training.setup import Setup
from trainer_classification.training.state import State

_MAX_BYTES = 1_600_000  # of all pictures, so that the page stays below 3 MB
_SIDE = 160  # px of a picture, for screens of high density
_SMALL_SIDE = 64  # of a neighbor
_BATCH = 24
_SHOWN = 18  # images of each other kind
_NEIGHBORS = 3
_READ_TOGETHER = 16  # images that a loader makes to get one of them
_ROWS = 65536  # training features compared at a time
_UNAUGMENTED_VIEWS = 2  # --feature-views up to which a frozen network sees no crops


@dataclass(frozen=True)
class _Entry:
    """An image to show: the scores of its split, its sample, and a few words."""

    scores: ImageScores
    row: int
    note: str = ""


def collect_galleries(
    setup: Setup,
    state: State,
    judged: list[ImageScores],
    suspects: list[tuple[ImageScores, int]],
) -> tuple[Gallery, ...]:
    """Return the galleries of a report, the most telling first.

    Args:
        setup: of the run, with the kept weights.
        state: at the end of the run.
        judged: scores of the splits that the model was not trained on.
        suspects: of `find_label_errors`.
    """
    thumbnails = Thumbnails(_MAX_BYTES)
    marked = {(scores.split, row) for scores, row in suspects}
    mistakes = []
    hits = []
    for scores in judged:
        if scores.split == "test":
            mistakes = [
                _Entry(scores, row, "label?" if ("test", row) in marked else "")
                for row in rank_mistakes(scores)[:_SHOWN].tolist()
            ]
            hits = [_Entry(scores, row) for row in rank_unsure_hits(scores)[:_SHOWN].tolist()]
    shown = {("test", entry.row) for entry in mistakes}
    others = [
        _Entry(scores, row, scores.split)
        for scores, row in suspects
        if (scores.split, row) not in shown
    ][:_SHOWN]

    galleries = (
        _show_mistakes(setup, thumbnails, mistakes),
        _show_suspects(setup, thumbnails, others),
        _show_hits(setup, thumbnails, hits),
        _show_batch(setup, thumbnails, state),
    )
    return tuple(gallery for gallery in galleries if gallery.images)


def _show_mistakes(setup: Setup, thumbnails: Thumbnails, entries: list[_Entry]) -> Gallery:
    text = "Test images that are classified wrong, with the highest confidence."
    if any(entry.note for entry in entries):
        text += " Of those marked with label?, the label is likely wrong."
    neighbors = find_neighbors(setup, "test", [entry.row for entry in entries])
    if neighbors is not None:
        text += " Below each, the training images that the frozen network sees as most alike."
    images = _encode(setup, thumbnails, entries, neighbors)
    return Gallery("Most confident mistakes", text, images)


def _show_suspects(setup: Setup, thumbnails: Thumbnails, entries: list[_Entry]) -> Gallery:
    text = (
        "Images with one label, of which the model is as sure to be of another class as it is of that class's own "
        "images; those marked above are not repeated. Look at the label before blaming the model."
    )
    return Gallery("Likely wrong labels", text, _encode(setup, thumbnails, entries))


def _show_hits(setup: Setup, thumbnails: Thumbnails, entries: list[_Entry]) -> Gallery:
    text = "Test images that are classified right, with the lowest confidence."
    return Gallery("Least certain right answers", text, _encode(setup, thumbnails, entries))


def _show_batch(setup: Setup, thumbnails: Thumbnails, state: State) -> Gallery:
    images, labels, text = _read_training_batch(setup, state)
    names = setup.manifest.class_names
    shown = []
    for image, label in zip(images, labels.tolist(), strict=True):
        if picture := thumbnails.encode(image, _SIDE):
            shown.append(ShownImage(picture, names[label]))

    return Gallery("Training images as the network saw them", text, tuple(shown))


def _encode(
    setup: Setup,
    thumbnails: Thumbnails,
    entries: Sequence[_Entry],
    neighbors: Int64 | None = None,
) -> tuple[ShownImage, ...]:
    """Return the images that have room on the page.

    Args:
        setup: of the run.
        thumbnails: encodes them.
        entries: M images.
        neighbors: int64 [M, n], the training images to show with each; None: none.
    """
    names = setup.manifest.class_names
    images = _read_images(setup, [(entry.scores.split, entry.row) for entry in entries])
    near: list[tuple[Neighbor, ...]] = [()] * len(entries)
    if neighbors is not None:
        near = _encode_neighbors(setup, thumbnails, neighbors)
    shown = []
    for entry, image, alike in zip(entries, images, near, strict=True):
        scores = entry.scores
        picture = thumbnails.encode(image, _SIDE)
        if not picture:
            break
        label = names[int(scores.labels[entry.row])]
        predicted = names[int(scores.predictions[entry.row])]
        confidence = float(scores.confidences[entry.row])
        shown.append(ShownImage(picture, label, predicted, confidence, entry.note, alike))

    return tuple(shown)


def _encode_neighbors(
    setup: Setup, thumbnails: Thumbnails, neighbors: Int64
) -> list[tuple[Neighbor, ...]]:
    names = setup.manifest.class_names
    labels = open_table(setup.inputs.folder, setup.manifest, "train").labels
    rows = neighbors.ravel().tolist()
    images = _read_images(setup, [("train", row) for row in rows])
    encoded = [
        Neighbor(thumbnails.encode(image, _SMALL_SIDE), names[int(labels[row])])
        for row, image in zip(rows, images, strict=True)
    ]
    width = neighbors.shape[1]
    groups = [encoded[start : start + width] for start in range(0, len(encoded), width)]

    return [tuple(entry for entry in group if entry.picture) for group in groups]


def find_neighbors(setup: Setup, split: str, rows: list[int]) -> Int64 | None:
    """Return the training images whose features have the highest cosine similarity to those of some images.

    Returns:
        int64 [M, n], the nearest first; None unless the backbone is frozen and its
        features were kept.
    """
    if setup.recipe.freeze != "backbone" or not rows:
        return None
    network = FrozenNetwork(setup)
    own = open_kept(setup, network, split)
    training = open_kept(setup, network, "train")
    if own is None or training is None:
        return None

    return rank_by_cosine(_unit(own[rows]), training, _NEIGHBORS)


def rank_by_cosine(queries: Float32, features: Float32, count: int) -> Int64:
    """Return the rows of `features` with the highest cosine similarity to each query, the highest first.

    Args:
        queries: float32 [M, F], of length 1.
        features: float32 [N, F], may be memory-mapped: some are read at a time.
        count: rows for each query; fewer if there are not so many.

    Returns:
        int64 [M, n].
    """
    best = np.zeros((len(queries), 0), np.float32)
    rows = np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(features), _ROWS):
        block = _unit(np.asarray(features[start : start + _ROWS]))
        similarities = np.concatenate([best, queries @ block.T], axis=1)
        numbers = np.broadcast_to(np.arange(start, start + len(block)), (len(queries), len(block)))
        candidates = np.concatenate([rows, numbers], axis=1)
        order = np.argsort(-similarities, axis=1, kind="stable")[:, :count]
        best = np.take_along_axis(similarities, order, axis=1)
        rows = np.take_along_axis(candidates, order, axis=1)

    return rows


def _unit(values: Float32) -> Float32:
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.maximum(lengths, 1e-12), np.float32)


def _read_images(setup: Setup, places: Sequence[tuple[str, int]]) -> list[Uint8]:
    """Return images as evaluation shows them, uint8 [H, W, C] each, by split and sample."""
    images: dict[tuple[str, int], Uint8] = {}
    for split in dict.fromkeys(split for split, _ in places):
        rows = sorted({row for name, row in places if name == split})
        with setup.open_whole_split(split, _READ_TOGETHER) as loader:
            together = loader.schedule.rows
            for row in rows:
                batch = next(loader.epoch(0, row // together))
                images[split, row] = batch.images[row % together].cpu().numpy().copy()

    return [images[place] for place in places]


def _read_training_batch(setup: Setup, state: State) -> tuple[list[Uint8], Int64, str]:
    """Return training images as the network saw them, their labels, int64 [B], and a sentence on what they are."""
    if setup.recipe.freeze == "backbone" and setup.config.feature_views <= _UNAUGMENTED_VIEWS:
        labels = open_table(setup.inputs.folder, setup.manifest, "train").labels
        rows = np.linspace(0, len(labels) - 1, min(_BATCH, len(labels))).astype(np.int64)
        images = _read_images(setup, [("train", row) for row in rows.tolist()])
        text = "Images from all over the training split. The network is frozen and saw each once, without augmentation."
        return images, labels[rows], text

    return _read_augmented_batch(setup, state)


def _read_augmented_batch(setup: Setup, state: State) -> tuple[list[Uint8], Int64, str]:
    """Return the first images of the last epoch as the network saw them, as `_read_training_batch` does."""
    epoch = max(0, state.epoch - 1)
    with setup.open_whole_training(_BATCH) as loader:
        batch = next(loader.epoch(epoch))
        images = batch.images[: batch.count].clone()
        labels = batch.labels[: batch.count].clone()
    mixing = setup.step.mixing
    text = f"The first images of epoch {epoch + 1}, augmented."
    if mixing.mixup > 0 or mixing.cutmix > 0:
        text = f"The first images of epoch {epoch + 1}, augmented and mixed with each other."
        # Mixing is linear, so it may be shown on pixels that are not normalized.
        pixels = images.permute(0, 3, 1, 2).float()
        mixed, _ = mixing(pixels, labels, max(0, state.steps_before - 1))
        images = mixed.permute(0, 2, 3, 1).round().clamp(0, 255).to(torch.uint8)

    return [*images.cpu().numpy()], labels.cpu().numpy(), text
