"""Compare an exported file with the checkpoint that it was made from."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trainer_classification.arrays import Float32, Float64, Uint8
from trainer_classification.checkpoint.load_model import Model
from trainer_classification.exporting.runtimes import Runtime
from trainer_classification.inference.predictor import Predictor
from trainer_classification.inference.preprocess import Preprocess
from trainer_classification.metrics.calibration import softmax

if TYPE_CHECKING:
    from trainer_classification.inference.preprocess import ImageSource

# Bounds of the difference between probabilities.
LARGEST = 0.01
MEAN = 0.001

_BATCH = 8  # images


@dataclass(frozen=True)
class Difference:
    """How far the probabilities of a runtime are from the checkpoint's, over N images and K classes.

    Attributes:
        name: of the runtime.
        largest: of all N x K differences.
        mean: of all N x K differences.
        agreement: share of images whose likeliest class is the same.
        remedy: as of `Runtime`.
    """

    name: str
    largest: float
    mean: float
    agreement: float
    remedy: str = ""

    @property
    def is_within(self) -> bool:
        """Whether both bounds hold; they do not for numbers that are not finite."""
        return self.largest <= LARGEST and self.mean <= MEAN


def predict_with_checkpoint(model: Model, images: Sequence[ImageSource]) -> Float64:
    """Return the probabilities of the model itself, as `predict` computes them in fp32: float64 [N, K]."""
    predictor = Predictor(model, "cpu", amp="off")
    preprocess = Preprocess.of_model(model)
    logits = [predictor.compute_logits([preprocess.load(image)]) for image in images]
    return softmax(np.concatenate(logits), model.temperature or 1.0)


def compare(runtime: Runtime, images: Sequence[Uint8], expected: Float64) -> Difference:
    """Compare a runtime's probabilities of N images with float64 [N, K]."""
    found = run_in_batches(runtime, images)
    difference = np.abs(found - expected)

    return Difference(
        runtime.name,
        float(difference.max()),
        float(difference.mean()),
        float(np.mean(found.argmax(1) == expected.argmax(1))),
        runtime.remedy,
    )


def run_in_batches(runtime: Runtime, images: Sequence[Uint8]) -> Float32:
    """Run a file over images [H, W, C], those of one size in batches: float32 [N, K]."""
    numbers = _batches(images)
    rows = [runtime.run(np.stack([images[number] for number in batch])) for batch in numbers]
    return np.asarray(np.concatenate(rows)[np.argsort(np.concatenate(numbers))])


def time_in_turns(runtimes: Sequence[Runtime], images: Sequence[Uint8], rounds: int) -> list[float]:
    """Return images a second of each runtime: the median of the rounds, in which they take turns.

    A round before them does not count.
    """
    seconds: list[list[float]] = [[] for _ in runtimes]
    for _ in range(rounds + 1):
        for runtime, measured in zip(runtimes, seconds, strict=True):
            started = time.perf_counter()
            run_in_batches(runtime, images)
            measured.append(time.perf_counter() - started)
    return [len(images) / statistics.median(measured[1:]) for measured in seconds]


def _batches(images: Sequence[Uint8]) -> list[list[int]]:
    """Return the numbers of images of one size, up to `_BATCH` of them each."""
    by_size = defaultdict(list)
    for number, image in enumerate(images):
        by_size[image.shape].append(number)
    return [
        numbers[start : start + _BATCH]
        for numbers in by_size.values()
        for start in range(0, len(numbers), _BATCH)
    ]
