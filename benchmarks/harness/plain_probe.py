"""What a user would write instead: a frozen network and a linear head, and a network from scratch, file by file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.time_to_accuracy import ImageFiles, read_rgb
from trainer_classification.checkpoint.weights import load_weights
from trainer_classification.data.source import Source
from trainer_classification.models import build, efficientnet

_BATCH = 32
_SIDE = 224  # px, of the network's weights
_RESIZED = 256  # px of the short side, of which the center is cropped, as torchvision's examples do
_SIDE_FROM_SCRATCH = 128  # px, as this package's recipes
_ITERATIONS = 1000  # at most, of scikit-learn's solver


@dataclass(frozen=True)
class PlainProbe:
    """The result of the plain loop over a frozen network.

    Attributes:
        seconds_network: in the network, of the training images.
        seconds_outside: in everything else: decoding, transforms, the solver.
        balanced_accuracy: mean over the classes on test.
    """

    seconds_network: float
    seconds_outside: float
    balanced_accuracy: float


def probe_plainly(source: Source, threads: int, test: bool = True) -> PlainProbe:
    """Classify by Pillow, torchvision's transforms, one pass of the network and scikit-learn's logistic regression.

    Args:
        source: with train and test.
        threads: of torch.
        test: whether to compute the accuracy, which takes most of the time.
    """
    from sklearn.linear_model import LogisticRegression
    from torchvision import transforms

    torch.set_num_threads(threads)
    transform = transforms.Compose(
        [
            transforms.Resize(_RESIZED),
            transforms.CenterCrop(_SIDE),
            transforms.ToTensor(),
            transforms.Normalize(efficientnet.MEAN, efficientnet.STD),
        ]
    )
    network = build("efficientnet-lite0", 1000, 3, _SIDE)
    load_weights(network, "imagenet", "efficientnet-lite0", [])
    network.eval().requires_grad_(False)

    started = time.perf_counter()
    features, seconds_network = _compute_features(network, _files(source, "train"), transform)
    solver: Any = LogisticRegression(max_iter=_ITERATIONS)
    solver.fit(features, _labels(source, "train"))
    seconds_outside = time.perf_counter() - started - seconds_network
    accuracy = float("nan")
    if test:
        tested, _ = _compute_features(network, _files(source, "test"), transform)
        accuracy = _balanced_accuracy(solver.predict(tested), _labels(source, "test"))

    return PlainProbe(seconds_network, seconds_outside, accuracy)


def train_from_scratch(source: Source, seconds: float, threads: int) -> float:
    """Train torchvision's ResNet-18 with DataLoader and Adam in fp32 for some seconds.

    Args:
        source: with train and test.
        seconds: of training; evaluation comes on top.
        threads: of torch.

    Returns:
        The mean over the classes of the accuracy on test.
    """
    from torch.utils.data import DataLoader
    from torchvision import models, transforms

    torch.manual_seed(0)
    torch.set_num_threads(threads)
    side = (_SIDE_FROM_SCRATCH, _SIDE_FROM_SCRATCH)
    augment = transforms.Compose(
        [
            transforms.RandomResizedCrop(side, (0.25, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
        ]
    )
    dataset: Any = ImageFiles(
        _files(source, "train"), _labels(source, "train").tolist(), augment, rgb=True
    )
    batches = DataLoader(dataset, _BATCH, shuffle=True, num_workers=threads)
    network = models.resnet18(num_classes=len(source.class_names))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for images, labels in _repeat(batches, seconds):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    network.eval()
    view = transforms.Compose([transforms.Resize(side), transforms.ToTensor()])
    tested: Any = ImageFiles(
        _files(source, "test"), _labels(source, "test").tolist(), view, rgb=True
    )
    with torch.inference_mode():
        found = [
            network(images).argmax(1)
            for images, _ in DataLoader(tested, _BATCH, num_workers=threads)
        ]

    return _balanced_accuracy(torch.cat(found).numpy(), _labels(source, "test"))


def _repeat(batches: Any, seconds: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches, epoch after epoch, until the seconds have passed."""
    end = time.perf_counter() + seconds
    while True:
        for batch in batches:
            if time.perf_counter() > end:
                return
            yield batch


@torch.inference_mode()
def _compute_features(
    network: nn.Module, files: Sequence[str], transform: Any
) -> tuple[npt.NDArray[np.float32], float]:
    """Return features, float32 [N, F], and the seconds that the network took."""
    features = []
    seconds = 0.0
    for first in range(0, len(files), _BATCH):
        batch = torch.stack([transform(read_rgb(path)) for path in files[first : first + _BATCH]])
        started = time.perf_counter()
        features.append(network.features(batch).numpy())  # type: ignore[operator]
        seconds += time.perf_counter() - started

    return np.concatenate(features), seconds


def _files(source: Source, split: str) -> list[str]:
    return [path for path, name in zip(source.paths, source.splits, strict=True) if name == split]


def _labels(source: Source, split: str) -> npt.NDArray[np.int64]:
    return source.labels[source.splits == split]


def _balanced_accuracy(predicted: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> float:
    return float(np.mean([(predicted[labels == k] == k).mean() for k in np.unique(labels)]))
