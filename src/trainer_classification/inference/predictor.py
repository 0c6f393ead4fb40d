"""Classify images in batches, in order, in as many threads as there are CPUs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from trainer_classification.arrays import Float32
from trainer_classification.checkpoint.load_model import Model
from trainer_classification.data.decode import BadImageError
from trainer_classification.device import choose_device, map_in_threads
from trainer_classification.environment import cpu_count, keep_freed_memory
from trainer_classification.faster_precision import choose_for_inference
from trainer_classification.inference.preprocess import LoadedImage, Preprocess
from trainer_classification.models.backbone import Backbone, split_head
from trainer_classification.models.efficientnet import EfficientNet
from trainer_classification.models.normalize import Normalize

if TYPE_CHECKING:
    from trainer_classification.inference.preprocess import ImageSource

_BATCH_ON_CPU = 16  # a core's activations stay in its cache: larger ones are no faster
_BATCH_ON_GPU = 128


@dataclass(frozen=True)
class Prediction:
    """What a model says of an image, or why it says nothing.

    Attributes:
        source: path of the image; "" where it was handed over in memory.
        classes: names of the k likeliest classes, the likeliest first; of equal
            ones the first in the model's order.
        confidences: probability of each, in 0..1.
        error: why the image cannot be classified; "" where it is.
        width: of the image, upright, in px; 0 where it cannot be decoded.
        height: of the image, upright, in px; 0 where it cannot be decoded.
        embedding: what the network's last layer saw, float32 [F], if it was asked
            for; else None.
    """

    source: str
    classes: tuple[str, ...] = ()
    confidences: tuple[float, ...] = ()
    error: str = ""
    width: int = 0
    height: int = 0
    embedding: Float32 | None = field(default=None, compare=False, repr=False)

    @property
    def class_name(self) -> str:
        """The likeliest class."""
        return self.classes[0]

    @property
    def confidence(self) -> float:
        """Probability of the likeliest class."""
        return self.confidences[0]


class Predictor:
    """Runs a model over images.

    On a CPU each thread decodes a batch and runs the network on it by itself,
    with one core: no core waits for another. On a GPU the threads decode, and
    take turns in starting the network's kernels.

    Args:
        model: of `load_model`.
        device: "auto", "cpu" or "cuda".
        batch_size: images a batch; 0: 16 on a CPU, 128 on a GPU.
        threads: 0: one for each CPU.
        embeddings: whether predictions have them.
        amp: "auto": bf16 where a CPU is measured to be faster in it; "off": fp32.

    Raises:
        ValueError: the device is not there.
    """

    def __init__(
        self,
        model: Model,
        device: str = "auto",
        batch_size: int = 0,
        threads: int = 0,
        *,
        embeddings: bool = False,
        amp: str = "auto",
    ) -> None:
        self.model = model
        self.device = choose_device(device)[0]
        self.batch_size = batch_size or (
            _BATCH_ON_CPU if self.device.type == "cpu" else _BATCH_ON_GPU
        )
        self.threads = threads or cpu_count()
        self._preprocess = Preprocess.of_model(model)
        self._embeddings = embeddings
        network = model.network.to(self.device)
        # Folded into its convolutions, an EfficientNet's norms cost nothing.
        self._backbone: Backbone = network
        self._head: nn.Module = nn.Identity()
        if embeddings or isinstance(network, EfficientNet):
            self._backbone, self._head = split_head(network, model.name)
        if self.device.type == "cpu":
            keep_freed_memory()
        self._normalize = Normalize(list(model.mean), list(model.std), self.device)
        shape = (self.batch_size, model.channels, model.image_size, model.image_size)
        self._dtype = choose_for_inference(
            self.device, amp, self._forward, shape, model.describe_network(), threads=1
        )

    def predict(self, sources: Iterable[ImageSource], top_k: int = 1) -> Iterator[Prediction]:
        """Yield the prediction of each image, in order.

        Only the batches in work are in memory. An image that cannot be classified
        has its reason as `error`.

        Args:
            sources: as of `Preprocess.load`; read as they are needed.
            top_k: classes to name.
        """
        rest = iter(sources)
        first = list(islice(rest, self.batch_size * self.threads))
        # Few images are spread over all threads.
        size = min(self.batch_size, max(1, -(-len(first) // self.threads)))
        if len(first) <= 1:
            yield from self._classify(first, top_k)
            return

        batches = _batched(chain(first, rest), size)
        classify = partial(self._classify, top_k=top_k)
        for predictions in map_in_threads(classify, batches, self.threads, self.device):
            yield from predictions

    def compute_logits(self, images: Sequence[LoadedImage]) -> Float32:
        """Run the network over images of `Preprocess.load`: float32 [B, K]."""
        return self._compute(images)[1]

    def _compute(self, images: Sequence[LoadedImage]) -> tuple[Float32, Float32]:
        """Return what the head sees, float32 [B, F], and logits, float32 [B, K]."""
        with torch.inference_mode():
            batch = self._preprocess.make_batch(images, self.device)
            normalized = self._normalize(batch)
            with torch.autocast(self.device.type, self._dtype, enabled=self._dtype is not None):
                features, logits = self._forward(normalized)
            return features.float().cpu().numpy(), logits.float().cpu().numpy()

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the head sees and logits of normalized images."""
        features = self._backbone(images)
        return features, self._head(features)

    def _classify(self, sources: Sequence[ImageSource], top_k: int) -> list[Prediction]:
        """Return the predictions of one batch."""
        names = [
            os.fspath(source) if isinstance(source, str | os.PathLike) else "" for source in sources
        ]
        images: list[LoadedImage] = []
        errors: dict[int, str] = {}
        for number, source in enumerate(sources):
            try:
                images.append(self._preprocess.load(source))
            except BadImageError as error:
                errors[number] = str(error)
        ranked = iter(self._predict_loaded(images, top_k) if images else [])

        return [
            Prediction(name, error=errors[number])
            if number in errors
            else dataclasses.replace(next(ranked), source=name)
            for number, name in enumerate(names)
        ]

    def _predict_loaded(self, images: Sequence[LoadedImage], top_k: int) -> list[Prediction]:
        """Return the predictions of images, without their names."""
        features, logits = self._compute(images)
        rankings = self._rank(logits, top_k)
        return [
            Prediction(
                "",
                *ranking,
                image.width,
                image.height,
                embedding=row if self._embeddings else None,
            )
            for image, ranking, row in zip(images, rankings, features, strict=True)
        ]

    def _rank(
        self, logits: Float32, top_k: int
    ) -> list[tuple[tuple[str, ...], tuple[float, ...], str]]:
        """Return names, probabilities and error of each row of logits [B, K]."""
        order = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
        scaled = logits.astype(np.float64) / (self.model.temperature or 1.0)
        weights = np.exp(scaled - scaled.max(1, keepdims=True))
        probabilities = np.take_along_axis(weights / weights.sum(1, keepdims=True), order, 1)

        names = self.model.class_names
        finite = np.atleast_1d(np.isfinite(logits).all(axis=1)).tolist()

        return [
            (tuple(names[k] for k in classes), tuple(row), "")
            if is_finite
            else ((), (), "the network's output is not a finite number")
            for classes, row, is_finite in zip(
                order.tolist(), probabilities.tolist(), finite, strict=True
            )
        ]


def predict(model: Model, images: Iterable[ImageSource], top_k: int = 1) -> list[Prediction]:
    """Classify images; of many, `Predictor.predict` yields one prediction after the other.

    Args:
        model: of `load_model`.
        images: paths, PIL images or arrays uint8 [H, W] or [H, W, C].
        top_k: classes to name for each image, the likeliest first.

    Returns:
        One prediction an image, in order. An image that cannot be read has an
        `error`.
    """
    return list(Predictor(model).predict(images, top_k=top_k))


def _batched(sources: Iterator[ImageSource], size: int) -> Iterator[list[ImageSource]]:
    """Yield lists of up to `size` images."""
    while batch := list(islice(sources, size)):
        yield batch
