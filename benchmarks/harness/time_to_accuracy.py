"""Measure the seconds of training to an accuracy: of this package, and of a loop as most projects start with.

The clock covers the training steps and the wait for their batches. The test split
is evaluated after each epoch, outside the clock, in the same way for all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.engines import open_engine
from harness.measure import Stopwatch
from harness.step_timing import Trainer
from harness.workload import Workload
from trainer_classification.data.table import open_table
from trainer_classification.loaders.base import Batch, Loader, LoaderRequest
from trainer_classification.optim.lr_schedule import factor
from trainer_classification.optim.parameter_groups import set_learning_rate
from trainer_classification.plan import Plan
from trainer_classification.training.evaluate import evaluate

_EVALUATION_BATCH = 512
_BATCH = 128  # of the baseline, as in PyTorch's own examples
_LEARNING_RATE = 1e-3  # of the baseline: Adam's default


class Training(Protocol):
    """A training that runs one epoch at a time.

    Attributes:
        epochs: number of epochs after which it has ended. 0: it has no end.
    """

    epochs: int

    def train(self, epoch: int) -> Iterator[None]:
        """Run one epoch, and yield after each step."""
        ...

    def accuracy(self) -> float:
        """Return the accuracy on the test split."""
        ...

    def close(self) -> None:
        """Close the loaders."""
        ...


@dataclass(frozen=True)
class AccuracyRun:
    """The result of a training to an accuracy.

    Attributes:
        seconds: seconds of training, until the accuracy was reached or the
            training stopped.
        reached: the accuracy was reached.
        epochs: epochs trained, the last one perhaps in part.
        accuracies: test accuracy after each epoch.
    """

    seconds: float
    reached: bool
    epochs: int
    accuracies: list[float]


def train_to_accuracy(
    training: Training, accuracy: float, limit: float, device: torch.device
) -> AccuracyRun:
    """Train until the accuracy is reached, the training ends, or `limit` seconds have passed."""
    watch = Stopwatch(device)
    seconds = 0.0
    accuracies = list[float]()
    late = False
    while not late and not (accuracies and accuracies[-1] >= accuracy):
        if training.epochs and len(accuracies) == training.epochs:
            break
        end = monotonic() + limit - seconds
        watch.start()
        late = any(
            monotonic() > end for _ in training.train(len(accuracies))
        )  # stops at the first late step
        seconds += watch.stop()
        accuracies.append(training.accuracy())
    reached = bool(accuracies) and accuracies[-1] >= accuracy

    return AccuracyRun(seconds, reached, len(accuracies), accuracies)


class Ours:
    """This package's recipe and step, fed by its resident loader or by the baseline's DataLoader.

    Args:
        workload: the dataset.
        epochs: epochs of the schedule, the last one perhaps in part. 0: the
            recipe's. A shorter schedule reaches an accuracy sooner, or not at all.
        baseline_data: the baseline's DataLoader feeds it.
    """

    def __init__(self, workload: Workload, epochs: float = 0, baseline_data: bool = False) -> None:
        recipe = workload.recipe
        self.workload = workload
        self.trainer = Trainer(workload)
        self.steps = workload.count // recipe.batch_size
        self.total = round((epochs or recipe.epochs) * self.steps)
        self.epochs = math.ceil(self.total / self.steps)
        self.test = self._open("test", None, _EVALUATION_BATCH)
        self.loader = (
            None if baseline_data else self._open("train", workload.plan, recipe.batch_size)
        )
        self.files = Files(workload, recipe.batch_size, augment=True) if baseline_data else None

    def _open(self, split: str, plan: Plan | None, batch_size: int) -> Loader:
        work = self.workload
        request = LoaderRequest(
            folder=Path(work.prepared),
            manifest=work.manifest,
            split=split,
            plan=plan,
            batch_size=batch_size,
            image_size=work.image_size,
            device=work.torch_device,
            threads=work.threads,
            eval_crop=work.recipe.eval_crop,
        )
        return open_engine("resident", request)

    def train(self, epoch: int) -> Iterator[None]:
        """Train as `training/loop.py` does, without logging and checkpoints."""
        recipe = self.workload.recipe
        left = self.total - epoch * self.steps
        for number, batch in enumerate(islice(self._batches(epoch), left), epoch * self.steps):
            scale = factor(number, self.total, recipe.schedule, recipe.warmup_fraction)
            set_learning_rate(self.trainer.step.optimizer, recipe.learning_rate * scale)
            self.trainer.step(batch, number, self.trainer.totals)
            yield

    def _batches(self, epoch: int) -> Iterator[Batch]:
        if self.loader is not None:
            return self.loader.epoch(epoch)
        assert self.files is not None
        return self.files.batches(self.workload.torch_device)

    def accuracy(self) -> float:
        """Return the accuracy by the package's own evaluation."""
        step = self.trainer.step
        classes = len(self.workload.manifest.class_names)
        return evaluate(
            step.kept_model, self.test, step.normalize, classes, dtype=step.dtype
        ).accuracy

    def close(self) -> None:
        """Close the loaders."""
        self.test.close()
        if self.loader is not None:
            self.loader.close()


class Files:
    """A DataLoader over the original files as most projects write it: Pillow, torchvision, one process per CPU."""

    def __init__(self, workload: Workload, batch_size: int, augment: bool) -> None:
        from torch.utils.data import DataLoader

        from harness.other_libraries import make_transform

        transform = make_transform(workload) if augment else _make_tensor_transform(workload)
        dataset: Any = ImageFiles(
            workload.files, workload.labels.tolist(), transform, rgb=not augment
        )
        self.loader: Any = DataLoader(
            dataset, batch_size, shuffle=True, num_workers=workload.threads, drop_last=augment
        )

    def batches(self, device: torch.device) -> Iterator[Batch]:
        """Yield the batches as this package's step takes them."""
        for images, labels in self.loader:
            moved = images.to(device).permute(0, 2, 3, 1).contiguous()
            yield Batch(moved, labels.to(device), labels, len(labels))


class ImageFiles:
    """A dataset of files as most projects write it."""

    def __init__(self, files: list[str], labels: list[int], transform: Any, rgb: bool) -> None:
        self.files = files
        self.labels = labels
        self.transform = transform
        self.rgb = rgb

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        from PIL import Image

        with Image.open(self.files[row]) as image:
            return self.transform(image.convert("RGB") if self.rgb else image.copy()), self.labels[
                row
            ]


def _make_tensor_transform(workload: Workload) -> Any:
    from torchvision import transforms

    # A gray dataset is trained as RGB.
    mean = (workload.manifest.mean * 3)[:3]
    std = (workload.manifest.std * 3)[:3]
    return transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])


class Baseline:
    """torchvision's ResNet-18 with DataLoader and Adam in fp32.

    It reads loss and accuracy at every step.
    """

    epochs = 0

    def __init__(self, workload: Workload) -> None:
        from torchvision.models import resnet18

        torch.manual_seed(0)
        torch.set_num_threads(workload.threads)
        self.device = workload.torch_device
        self.model: nn.Module = resnet18(num_classes=len(workload.manifest.class_names)).to(
            self.device
        )
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=_LEARNING_RATE)
        self.files = Files(workload, _BATCH, augment=False)
        self.seen: list[tuple[float, float]] = []

        table = open_table(Path(workload.prepared), workload.manifest, "test")
        root = Path(workload.manifest.root)
        self.test_labels = torch.from_numpy(table.labels)
        transform = _make_tensor_transform(workload)
        self.test = torch.stack([transform(read_rgb(root / name)) for name in table.files])

    def train(self, epoch: int) -> Iterator[None]:
        """Run the loop of most tutorials."""
        self.model.train()
        for images, labels in self.files.loader:
            images = images.to(self.device)
            labels = labels.to(self.device)
            self.optimizer.zero_grad()
            logits = self.model(images)
            loss = F.cross_entropy(logits, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            accuracy = (logits.argmax(1) == labels).float().mean()
            self.seen.append((loss.item(), accuracy.item()))
            yield

    @torch.inference_mode()
    def accuracy(self) -> float:
        """Return the accuracy on the test split.

        It is decoded in advance, since evaluation is not timed.
        """
        self.model.eval()
        found = torch.cat(
            [
                self.model(part.to(self.device)).argmax(1).cpu()
                for part in torch.split(self.test, 512)
            ]
        )
        return float(np.mean((found == self.test_labels).numpy()))

    def close(self) -> None:
        """Do nothing, as nothing is held."""


def read_rgb(path: str | Path) -> Any:
    """Decode an image file with Pillow."""
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB")
