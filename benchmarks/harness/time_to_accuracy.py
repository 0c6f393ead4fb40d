"""Seconds of training to an accuracy: this package, and a loop as most people start with.

The clock runs over the training steps and the waiting for their batches; the test split is evaluated after each epoch,
outside of it, the same way for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.measure import Stopwatch
from harness.step_timing import Trainer
from harness.workload import Workload
from trainer_classification.data.table import open_table
from trainer_classification.loaders.base import Batch, LoaderRequest
from trainer_classification.loaders.registry import choose_engine, open_loader
from trainer_classification.optim.lr_schedule import factor
from trainer_classification.optim.parameter_groups import set_learning_rate
from trainer_classification.training.evaluate import evaluate

_BATCH = 128  # of the baseline, as in PyTorch's own examples
_RATE = 1e-3  # Adam's default


class Training(Protocol):
    """One training, an epoch at a time."""

    epochs: int  # after which nothing more is to be expected; 0: no end

    def train(self, epoch: int) -> Iterator[None]:
        """One epoch, a step at a time."""
        ...

    def accuracy(self) -> float:
        """On the test split."""
        ...

    def close(self) -> None:
        """Free the loader."""
        ...


@dataclass(frozen=True)
class Reached:
    """How a training went.

    Attributes:
        seconds: of training until the accuracy was reached, or until it was given up.
        reached: whether it was.
        epochs: trained, the last perhaps in part.
        accuracies: after each.
    """

    seconds: float
    reached: bool
    epochs: int
    accuracies: list[float]


def time_to(training: Training, accuracy: float, limit: float, device: torch.device) -> Reached:
    """Train until the accuracy is reached, the training ends, or `limit` seconds are over."""
    watch, seconds, accuracies = Stopwatch(device), 0.0, list[float]()
    late = False
    while not late and not (accuracies and accuracies[-1] >= accuracy):
        if training.epochs and len(accuracies) == training.epochs:
            break
        end = monotonic() + limit - seconds
        watch.start()
        late = any(monotonic() > end for _ in training.train(len(accuracies)))  # stops at the first that is
        seconds += watch.stop()
        accuracies.append(training.accuracy())
    reached = bool(accuracies) and accuracies[-1] >= accuracy
    return Reached(seconds, reached, len(accuracies), accuracies)


class Ours:
    """This package's recipe and step, fed by its resident loader or by the baseline's DataLoader.

    Args:
        workload: the dataset.
        epochs: of the schedule; 0: the recipe's. A shorter one is sooner at an accuracy, or never.
        baseline_data: which feeds it.
    """

    def __init__(self, workload: Workload, epochs: int = 0, baseline_data: bool = False) -> None:
        self.workload, self.trainer, recipe = workload, Trainer(workload), workload.recipe
        common: dict[str, Any] = {"image_size": workload.image_size, "device": workload.where}
        folder, of = Path(workload.prepared), workload.manifest
        array_bytes = sum(split.count for split in of.splits.values()) * of.image_size**2 * of.channels
        choice = choose_engine("resident", array_bytes, workload.where, of.resized)
        request = LoaderRequest(folder, of, "test", plan=None, batch_size=512, threads=workload.threads, **common)
        self.test = open_loader(choice, request)
        self.loader, size = None, recipe.batch_size
        if baseline_data:
            self.batches = Files(workload, recipe.batch_size, augmented=True)
        else:
            threads = workload.threads
            self.loader = open_loader(
                choice,
                LoaderRequest(folder, of, "train", plan=workload.plan, batch_size=size, threads=threads, **common),
            )
        self.steps, self.epochs = workload.count // size, epochs or recipe.epochs

    def train(self, epoch: int) -> Iterator[None]:
        """As `training/loop.py`, without logging and checkpoints."""
        recipe, total = self.workload.recipe, self.steps * self.epochs
        batches = self.loader.epoch(epoch) if self.loader is not None else self.batches.uint8(self.workload.where)
        for number, batch in enumerate(batches, epoch * self.steps):
            share = factor(number, total, recipe.schedule, recipe.warmup_fraction)
            set_learning_rate(self.trainer.step.optimizer, recipe.learning_rate * share)
            self.trainer.step(batch, number, self.trainer.totals)
            yield

    def accuracy(self) -> float:
        """By the package's own evaluation."""
        step, classes = self.trainer.step, len(self.workload.manifest.class_names)
        model = step.kept_model
        return evaluate(model, self.test, step.normalize, classes, dtype=step.dtype).accuracy

    def close(self) -> None:
        """Close both loaders."""
        self.test.close()
        if self.loader is not None:
            self.loader.close()


class Files:
    """A DataLoader over the original files, as most people write it: Pillow, torchvision, a process for each CPU."""

    def __init__(self, workload: Workload, batch_size: int, augmented: bool) -> None:
        from torch.utils.data import DataLoader

        from harness.other_libraries import transform

        to = transform(workload) if augmented else _to_tensor(workload)
        dataset: Any = _Dataset(workload.files, workload.labels.tolist(), to, rgb=not augmented)
        self.loader: Any = DataLoader(
            dataset, batch_size, shuffle=True, num_workers=workload.threads, drop_last=augmented
        )

    def uint8(self, device: torch.device) -> Iterator[Batch]:
        """The batches as this package's step takes them."""
        for images, labels in self.loader:
            there = images.to(device).permute(0, 2, 3, 1).contiguous()
            yield Batch(there, labels.to(device), labels, len(labels))


class _Dataset:
    def __init__(self, files: list[str], labels: list[int], to: Any, rgb: bool) -> None:
        self.files, self.labels, self.to, self.rgb = files, labels, to, rgb

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        from PIL import Image

        with Image.open(self.files[row]) as image:
            return self.to(image.convert("RGB") if self.rgb else image.copy()), self.labels[row]


def _to_tensor(workload: Workload) -> Any:
    from torchvision import transforms

    mean, std = ((values * 3)[:3] for values in (workload.manifest.mean, workload.manifest.std))
    return transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])


class Baseline:
    """torchvision's ResNet-18, DataLoader, Adam at 1e-3, fp32, loss and accuracy read at every step, no end planned."""

    epochs = 0

    def __init__(self, workload: Workload) -> None:
        from torchvision.models import resnet18

        torch.manual_seed(0)
        torch.set_num_threads(workload.threads)
        self.device = workload.where
        self.model: nn.Module = resnet18(num_classes=len(workload.manifest.class_names)).to(self.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=_RATE)
        self.files = Files(workload, _BATCH, augmented=False)
        of = open_table(Path(workload.prepared), workload.manifest, "test")
        self.test_labels, root = torch.from_numpy(of.labels), Path(workload.manifest.root)
        to = _to_tensor(workload)
        self.test = torch.stack([to(_rgb(root / name)) for name in of.files])
        self.seen: list[tuple[float, float]] = []

    def train(self, epoch: int) -> Iterator[None]:
        """The loop of most tutorials."""
        self.model.train()
        for images, labels in self.files.loader:
            there, wanted = images.to(self.device), labels.to(self.device)
            self.optimizer.zero_grad()
            logits = self.model(there)
            loss = F.cross_entropy(logits, wanted)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.seen.append((loss.item(), (logits.argmax(1) == wanted).float().mean().item()))
            yield

    @torch.inference_mode()
    def accuracy(self) -> float:
        """Over the whole test split, decoded ahead, as evaluation is not in the clock."""
        self.model.eval()
        found = torch.cat([self.model(part.to(self.device)).argmax(1).cpu() for part in torch.split(self.test, 512)])
        return float(np.mean((found == self.test_labels).numpy()))

    def close(self) -> None:
        """Nothing is kept."""


def _rgb(path: Path) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB")
