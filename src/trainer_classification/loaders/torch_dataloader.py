"""The torch loader: DataLoader and torchvision over the original files, as most people write it. The baseline.

Only the order and the draws are ours. They are sent to the workers with the
indices, so the workers keep no state.
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

from trainer_classification.augment.reference import (
    blank,
    blanked_boxes,
    jitter_colors,
    operate,
    resizes,
)
from trainer_classification.crop_boxes import load_kernels
from trainer_classification.data.formats import GRAY_SHIFT
from trainer_classification.data.manifest import Manifest
from trainer_classification.data.table import Table, open_table
from trainer_classification.environment import spare_cpus
from trainer_classification.loaders.base import Batch, BatchSchedule, Loader, LoaderRequest
from trainer_classification.loaders.pixel_boxes import pixel_boxes
from trainer_classification.plan import Policy

if TYPE_CHECKING:
    from PIL.Image import Image

_PREFETCH = 2  # batches that each worker makes ahead: DataLoader's default


class Item(NamedTuple):
    """A sample and its draws as plain numbers, in which form they are sent to a worker.

    Attributes:
        sample: sample id, or -1 for a padding row.
        box: x, y, w, h of the crop in px of the image.
        flip: mirror the image horizontally.
        shift: dy, dx in px.
        color: factors of brightness, contrast and saturation in 1/256.
        operations: of `plan.draw_operations`.
        blanks: top, left, bottom, right of each blanked box in px.
    """

    sample: int
    box: tuple[int, int, int, int]
    flip: bool
    shift: tuple[int, int]
    color: tuple[int, int, int]
    operations: tuple[tuple[int, ...], ...]
    blanks: tuple[tuple[int, int, int, int], ...]


class PlannedBatches(Sampler[list[Item]]):
    """Sample the planned batches of the current epoch, from `start_step` on."""

    def __init__(
        self, schedule: BatchSchedule, sizes: npt.NDArray[np.int32], image_size: int
    ) -> None:
        self.schedule = schedule
        self.sizes = sizes
        self.image_size = image_size
        self.epoch = 0
        self.start_step = 0

    def __iter__(self) -> Iterator[list[Item]]:
        policy = self.schedule.policy
        draws = self.schedule.draws(self.epoch)
        for index, _ in self.schedule.batches(self.epoch, self.start_step):
            drawn = draws[index]
            boxes = pixel_boxes(drawn.box, self.sizes[index])
            blanked = blanked_boxes(drawn, policy, self.image_size)
            blanks = np.stack([*blanked], axis=1) if blanked else np.zeros((len(index), 0, 4), int)
            columns = (
                values.tolist()
                for values in (
                    *(index, boxes, drawn.flip, drawn.shift),
                    *(drawn.color, drawn.operations, blanks),
                )
            )
            yield [Item(*values) for values in zip(*columns, strict=True)]

    def __len__(self) -> int:
        return max(0, self.schedule.steps - self.start_step)


class Originals(Dataset[tuple[npt.NDArray[np.uint8], int, int]]):
    """Decode and augment the original files of a split.

    Args:
        manifest: manifest of the prepared dataset. It says how images of unequal
            size are padded.
        table: the split's table.
        policy: the augmentation that the draws are for.
        image_size: side T of the returned images in px.
    """

    def __init__(self, manifest: Manifest, table: Table, policy: Policy, image_size: int) -> None:
        self.root = Path(manifest.root)
        self.files = table.files
        self.labels = table.labels
        self.channels = manifest.channels
        self.padded_side = 0 if manifest.resized else manifest.image_size
        self.gray_shift = manifest.gray_shift
        self.policy = policy
        self.image_size = image_size
        self.resizes = manifest.resized or resizes(policy, manifest.image_size, image_size)

    def __getitem__(self, item: Item) -> tuple[npt.NDArray[np.uint8], int, int]:
        """Return the image as uint8 [T, T, C], its label and its sample id.

        Raises:
            ValueError: the original file is missing or damaged.
        """
        shape = self.image_size, self.image_size, self.channels
        if item.sample < 0:
            return np.zeros(shape, np.uint8), 0, -1
        image = np.array(self._augment(self._read_image(item.sample), item)).reshape(shape)
        for operation in item.operations:
            image = operate(image, np.array(operation, np.int32), self.policy.fill)
        if self.policy.color_jitter:
            image = jitter_colors(image, np.array(item.color, np.int16))
        image = blank(image, [np.array(box, np.int32) for box in item.blanks], self.policy.fill)
        return image, int(self.labels[item.sample]), item.sample

    def _read_image(self, sample: int) -> Image:
        path = self.root / self.files[sample]
        try:
            return open_image(path, self.channels, self.padded_side, self.gray_shift)
        except FileNotFoundError:
            raise ValueError(_missing_original(self.root, self.files[sample])) from None
        except (OSError, ValueError) as error:
            raise ValueError(f"Image {sample} ({path}) cannot be decoded: {error}") from error

    def _augment(self, image: Image, item: Item) -> Any:
        from torchvision.transforms.v2 import functional as F

        size = self.image_size
        policy = self.policy
        if self.resizes:
            x, y, w, h = item.box
            image = F.resized_crop(image, y, x, h, w, [size, size], antialias=True)
        if policy.crop == "shift" and policy.shift:
            image = F.pad(
                image,
                [policy.shift],
                padding_mode="reflect" if policy.pad == "reflect" else "constant",
            )
            image = F.crop(
                image, policy.shift + item.shift[0], policy.shift + item.shift[1], size, size
            )
        return F.horizontal_flip(image) if item.flip else image


def open_image(path: Path, channels: int, side: int = 0, gray_shift: int = GRAY_SHIFT) -> Image:
    """Decode an image to the pixels of `data.decode.decode`.

    Plain JPEG and PNG files need Pillow only.

    Args:
        path: the file.
        channels: 1 or 3.
        side: pad the image to side x side px. 0: keep its size.
        gray_shift: bits that gray images of 16 and 32 bits lose.

    Raises:
        OSError, ValueError: the file cannot be read or decoded.
    """
    from PIL import Image

    from trainer_classification.data import decode as decoding

    picture = _open_plain(path)
    if picture is None:
        pixels = decoding.decode(path.read_bytes(), gray_shift)
        picture = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    picture = picture.convert("L" if channels == 1 else "RGB")
    if side and picture.size != (side, side):
        pixels = decoding.pad(
            np.asarray(picture).reshape(picture.height, picture.width, channels), side
        )
        picture = Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels)
    return picture


def _open_plain(path: Path) -> Image | None:
    """Decode a plain JPEG or PNG as most people do; None for any other file, and for one that Pillow does not open.

    Raises:
        FileNotFoundError: it is missing.
    """
    from PIL import Image

    from trainer_classification.data.orientation import UPRIGHT, read_orientation

    try:
        with Image.open(path) as image:
            plain = (
                image.format in ("JPEG", "PNG")
                and image.mode in ("L", "RGB")
                and "transparency" not in image.info
            )
            if not plain or read_orientation(image).turn != UPRIGHT:
                return None
            image.load()
            return image
    except FileNotFoundError:
        raise
    except Exception:  # Pillow raises whatever its parsers raise; `data.decode` has the last word
        return None


def _missing_original(root: Path, file: str) -> str:
    return (
        f"{root} no longer holds {file}, and the torch loader reads the original files. Put the dataset back there, "
        "prepare it again where it is now with prepare.py --force, or use --loader resident, which needs only the "
        "shards."
    )


def collate_numpy(
    samples: list[tuple[npt.NDArray[np.uint8], int, int]],
) -> tuple[npt.NDArray[Any], ...]:
    """Collate samples to numpy arrays.

    A worker sends these through a pipe: slower, but without shared memory.
    """
    images, labels, index = zip(*samples, strict=True)
    return np.stack(images), np.array(labels, np.int64), np.array(index, np.int64)


def free_shared_memory() -> int:
    """Return the free bytes of /dev/shm, through which DataLoader's workers send tensors.

    Containers often have 64 MB of it.
    """
    try:
        status = os.statvfs("/dev/shm")
    except FileNotFoundError:  # not Linux: there is no such limit
        return 1 << 62
    return status.f_bavail * status.f_frsize


class TorchLoader(Loader):
    """Deliver the batches of a DataLoader.

    Args:
        dataset: the split.
        sizes: int32 [n, 2], width and height in px of the images that boxes are
            cropped from.
        schedule: the samples of each batch and their augmentation.
        device: where the batches are delivered.
        workers: worker processes. 0: one per CPU.
    """

    def __init__(
        self,
        dataset: Originals,
        sizes: npt.NDArray[np.int32],
        schedule: BatchSchedule,
        device: torch.device,
        workers: int = 0,
    ) -> None:
        super().__init__(schedule)
        self.device = device
        self._feeders: set[threading.Thread] = set()
        self._planned = PlannedBatches(schedule, sizes, dataset.image_size)

        workers = workers or spare_cpus()
        batch_bytes = schedule.rows * (dataset.image_size**2 * dataset.channels + 16)
        self.uses_shared_memory = (workers * _PREFETCH + 2) * batch_bytes <= free_shared_memory()
        self._loader: DataLoader[Any] | None = DataLoader(
            dataset,
            batch_sampler=self._planned,  # its "indices" are Items
            num_workers=workers,
            prefetch_factor=_PREFETCH,
            persistent_workers=True,
            collate_fn=None if self.uses_shared_memory else collate_numpy,
            pin_memory=device.type == "cuda" and self.uses_shared_memory,
            generator=torch.Generator(),  # otherwise it draws from the global one
        )

    def _batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        assert self._loader is not None
        self._planned.epoch = epoch
        self._planned.start_step = start_step

        before = set(threading.enumerate())
        batches = iter(self._loader)
        # These threads send the workers their work. DataLoader ends them but does
        # not wait for that.
        started = set(threading.enumerate()) - before
        self._feeders |= {thread for thread in started if thread.name == "QueueFeederThread"}

        for images, labels, index in batches:
            count = int((index >= 0).sum())
            yield Batch(
                self._to_device(images), self._to_device(labels), self._to_device(index), count
            )

    def _to_device(self, values: Any) -> Tensor:
        return torch.as_tensor(values).to(self.device, non_blocking=True)

    def close(self) -> None:
        """End the workers and the threads that feed them."""
        self._end_epoch()
        # Dropping the DataLoader is not enough, since the traceback of an error
        # may hold its iterator.
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
        ValueError: the split or its original files are missing.
    """
    import torchvision.transforms.v2  # noqa: F401  # once, here: otherwise each worker spends seconds importing it

    load_kernels()  # for boxes, which are drawn by batch
    manifest = request.manifest
    table = open_table(request.folder, manifest, request.split)
    root = Path(manifest.root)
    missing = [name for name in (table.files[0], table.files[-1]) if not (root / name).is_file()]
    if missing:
        raise ValueError(_missing_original(root, missing[0]))

    schedule = request.schedule
    dataset = Originals(manifest, table, schedule.policy, request.image_size)
    # Small images are cropped as the array holds them, padded to one size.
    sizes = table.sizes if manifest.resized else np.full_like(table.sizes, manifest.image_size)

    return TorchLoader(dataset, sizes, schedule, request.device, request.threads)
