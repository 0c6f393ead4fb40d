"""The torch loader: DataLoader and torchvision over the original files, as people write it today. The baseline.

Nothing of ours is in its hot path but order and draws, which travel with the indices: the workers have no state.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from trainer_classification.augment.reference import resizes
from trainer_classification.data.manifest import Manifest
from trainer_classification.data.table import Table, open_table
from trainer_classification.environment import cpu_count
from trainer_classification.loaders.base import Batch, BatchSchedule, Loader, LoaderRequest
from trainer_classification.loaders.pixel_boxes import cutout_boxes, pixel_boxes
from trainer_classification.plan import Policy

if TYPE_CHECKING:
    from PIL.Image import Image

_PREFETCH = 2  # batches a worker makes ahead: DataLoader's default


class Item(NamedTuple):
    """A sample and what was drawn for it, as plain numbers: what a worker is sent.

    Attributes:
        sample: id; -1: a padding row.
        box: x, y, w, h in px of the image that is cut.
        shift: dy, dx.
        blank: top, left, height, width in px.
    """

    sample: int
    box: tuple[int, int, int, int]
    flip: bool
    shift: tuple[int, int]
    blank: tuple[int, int, int, int]


class PlannedBatches(Sampler[list[Item]]):
    """A batch sampler: the planned batches of the epoch that is set."""

    def __init__(self, share: BatchSchedule, sizes: npt.NDArray[np.int32], image_size: int) -> None:
        self.schedule, self.sizes, self.image_size = share, sizes, image_size
        self.epoch = self.start_step = 0

    def __iter__(self) -> Iterator[list[Item]]:
        policy, draws = self.schedule.policy, self.schedule.draws(self.epoch)
        for index, _ in self.schedule.batches(self.epoch, self.start_step):
            drawn = draws[index]
            boxes = pixel_boxes(drawn.box, self.sizes[index])
            blanks = cutout_boxes(drawn.cutout, self.image_size, policy.cutout)
            columns = (values.tolist() for values in (index, boxes, drawn.flip, drawn.shift, blanks))
            yield [Item(*values) for values in zip(*columns, strict=True)]

    def __len__(self) -> int:
        return max(0, self.schedule.steps - self.start_step)


class Originals(Dataset[tuple[npt.NDArray[np.uint8], int, int]]):
    """The original files of a split, augmented.

    Args:
        manifest: of the prepared dataset, for how images of unequal size are padded.
        table: the split's.
        policy: what the draws mean.
        image_size: side T in px of the images to return.
    """

    def __init__(self, manifest: Manifest, table: Table, policy: Policy, image_size: int) -> None:
        self.root, self.files, self.labels = Path(manifest.root), table.files, table.labels
        self.channels, self.side = manifest.channels, 0 if manifest.resized else manifest.image_size
        self.policy, self.image_size = policy, image_size
        self.resizes = manifest.resized or resizes(policy, manifest.image_size, image_size)

    def __getitem__(self, item: Item) -> tuple[npt.NDArray[np.uint8], int, int]:
        """uint8 [T, T, C], label, sample id."""
        shape = self.image_size, self.image_size, self.channels
        if item.sample < 0:
            return np.zeros(shape, np.uint8), 0, -1
        image = self._augmented(self._image(item.sample), item)
        return np.array(image).reshape(shape), int(self.labels[item.sample]), item.sample

    def _image(self, sample: int) -> Image:
        path = self.root / self.files[sample]
        try:
            return opened(path, self.channels, self.side)
        except FileNotFoundError:
            raise ValueError(_gone(self.root, self.files[sample])) from None
        except (OSError, ValueError) as error:
            raise ValueError(f"Image {sample} ({path}) cannot be decoded: {error}") from error

    def _augmented(self, image: Image, item: Item) -> Any:
        from torchvision.transforms.v2 import functional as F

        size, policy = self.image_size, self.policy
        if self.resizes:
            x, y, w, h = item.box
            image = F.resized_crop(image, y, x, h, w, [size, size], antialias=True)
        if policy.crop == "shift" and policy.shift:
            image = F.pad(image, [policy.shift], padding_mode="reflect" if policy.pad == "reflect" else "constant")
            image = F.crop(image, policy.shift + item.shift[0], policy.shift + item.shift[1], size, size)
        image = F.horizontal_flip(image) if item.flip else image
        if policy.cutout:
            image = F.erase(image, *item.blank, v=torch.tensor(policy.fill, dtype=torch.uint8))
        return image


def opened(path: Path, channels: int, side: int = 0) -> Image:
    """An image as `data.images.decode` shows it; plain files by Pillow alone.

    Args:
        path: of the file.
        channels: 1 or 3.
        side: 0, or it is padded to side x side px.

    Raises:
        OSError, ValueError: it cannot be read or decoded.
    """
    from PIL import Image

    from trainer_classification.data import decode as images

    with Image.open(path) as image:
        plain = image.format in ("JPEG", "PNG") and image.mode in ("L", "RGB") and "transparency" not in image.info
        if plain and image.getexif().get(0x0112, 1) == 1:  # not rotated
            picture = image.convert("L" if channels == 1 else "RGB")
        else:
            pixels = images.decode(path.read_bytes(), path.suffix)
            picture = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
            picture = picture.convert("L" if channels == 1 else "RGB")
    if side and picture.size != (side, side):
        pixels = images.padded(np.asarray(picture).reshape(picture.height, picture.width, channels), side)
        picture = Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels)
    return picture


def _gone(root: Path, file: str) -> str:
    return (
        f"{root} no longer holds {file}, and the torch loader reads the original files. Put the dataset back there, "
        "prepare it again where it is now with --force, or use --loader resident, which needs the shards alone."
    )


def through_pipe(samples: list[tuple[npt.NDArray[np.uint8], int, int]]) -> tuple[npt.NDArray[Any], ...]:
    """Collate into numpy arrays, which a worker sends through a pipe: slower, but needs no shared memory."""
    images, labels, index = zip(*samples, strict=True)
    return np.stack(images), np.array(labels, np.int64), np.array(index, np.int64)


def free_shared_memory() -> int:
    """Bytes free in /dev/shm, through which DataLoader's workers hand over tensors; containers often have 64 MB."""
    try:
        found = os.statvfs("/dev/shm")
    except FileNotFoundError:  # not Linux: no such bound
        return 1 << 62
    return found.f_bavail * found.f_frsize


class TorchLoader(Loader):
    """Batches by DataLoader.

    Args:
        dataset: the split.
        sizes: int32 [n, 2], width and height in px of the images that boxes are cut from.
        share: which samples, how augmented.
        device: where the batches go.
        workers: processes; 0: one for each CPU.
    """

    def __init__(
        self,
        dataset: Originals,
        sizes: npt.NDArray[np.int32],
        share: BatchSchedule,
        device: torch.device,
        workers: int = 0,
    ) -> None:
        super().__init__(share)
        self.device = device
        self._feeders: set[threading.Thread] = set()
        self._planned = PlannedBatches(share, sizes, dataset.image_size)
        workers = workers or cpu_count()
        batch_bytes = share.rows * (dataset.image_size**2 * dataset.channels + 16)
        self.shares_memory = (workers * _PREFETCH + 2) * batch_bytes <= free_shared_memory()
        self._loader: DataLoader[Any] | None = DataLoader(
            dataset,
            batch_sampler=self._planned,  # its "indices" are Items
            num_workers=workers,
            prefetch_factor=_PREFETCH,
            persistent_workers=True,
            collate_fn=None if self.shares_memory else through_pipe,
            pin_memory=device.type == "cuda" and self.shares_memory,
            generator=torch.Generator(),  # else it draws from the global one
        )

    def _batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        assert self._loader is not None
        self._planned.epoch, self._planned.start_step = epoch, start_step
        before = set(threading.enumerate())
        batches = iter(self._loader)
        # The threads that send the workers their work, which DataLoader ends but does not wait for.
        started = set(threading.enumerate()) - before
        self._feeders |= {thread for thread in started if thread.name == "QueueFeederThread"}
        for images, labels, index in batches:
            count = int((index >= 0).sum())
            yield Batch(self._moved(images), self._moved(labels), self._moved(index), count)

    def _moved(self, values: Any) -> Tensor:
        return torch.as_tensor(values).to(self.device, non_blocking=True)

    def close(self) -> None:
        """End the workers and the threads that feed them."""
        self._end_epoch()
        # Dropping the DataLoader would do, were it not that an error's traceback may hold its iterator.
        iterator: Any = getattr(self._loader, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()
        self._loader = None
        for thread in self._feeders:
            thread.join()
        self._feeders.clear()


def open_torch(request: LoaderRequest) -> TorchLoader:
    """Open the original files of a split.

    Raises:
        ValueError: the split is not there, or its original files are gone.
    """
    import torchvision.transforms.v2  # noqa: F401  # here, once: else each worker takes seconds to import it

    manifest = request.manifest
    table = open_table(request.folder, manifest, request.split)
    missing = [name for name in (table.files[0], table.files[-1]) if not (Path(manifest.root) / name).is_file()]
    if missing:
        raise ValueError(_gone(Path(manifest.root), missing[0]))
    share = request.schedule
    dataset = Originals(manifest, table, share.policy, request.image_size)
    # Small images are cut as the array holds them, padded to one size.
    sizes = table.sizes if manifest.resized else np.full_like(table.sizes, manifest.image_size)
    return TorchLoader(dataset, sizes, share, request.device, request.threads)
