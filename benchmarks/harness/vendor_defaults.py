"""FFCV and DALI as their vendors' documentation shows them, without any code of this package in the path.

FFCV: docs/quickstart and examples/cifar of FFCV 1.0.2, and write_imagenet.py of
ffcv-imagenet for the writer. DALI: the ResNet-50 example for PyTorch of DALI 2.4.
It ends in uint8 here, as the other candidates do.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from harness.delivery import Delivery
from harness.workload import Workload

_SIDE = 256  # px, the longest side in FFCV's own betons, "256 RAW" and "256 JPEG"
_QUALITY = 90  # of their JPEGs


class SelfShuffling:
    """Base class of candidates that shuffle by themselves, or deliver no samples.

    Attributes:
        files: the files it reads.
        works_ahead: at the end of an epoch it starts the next one by itself, and
            has batches before they are asked for.
    """

    files: list[str]
    works_ahead = False

    def planned(self, number: int) -> None:
        """Return None: the order is not known in advance."""

    def close(self) -> None:
        """Do nothing, as only memory is held."""


class _Images:
    """Return (PIL image, label) by number, as FFCV's writer asks for them."""

    def __init__(self, files: list[str], labels: Any) -> None:
        self.files = files
        self.labels = labels

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        from PIL import Image

        with Image.open(self.files[row]) as image:
            return image.convert("RGB"), int(self.labels[row])


def write_ffcv(
    mode: str, files: list[str], labels: list[int], folder: Path, *, resized: bool, threads: int
) -> None:
    """Write a beton with FFCV's DatasetWriter, fed by PIL.

    Only resized datasets have a bound on the side.
    """
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    bound = {"max_resolution": _SIDE} if resized else {}
    image = RGBImageField(write_mode=mode, jpeg_quality=_QUALITY, **bound)
    writer = DatasetWriter(
        str(folder / "train.beton"), {"image": image, "label": IntField()}, num_workers=threads
    )
    writer.from_indexed_dataset(_Images(files, labels), chunksize=100)


def compile_dictionary() -> None:
    """Let numba compile a dictionary of texts and numbers, which is five of the six seconds of FFCV's import."""
    from numba.typed import Dict

    Dict()["raw"] = 1


def _write_train(mode: str, workload: Workload, folder: Path) -> None:
    labels = workload.labels.tolist()
    resized = workload.manifest.resized
    write_ffcv(mode, workload.files, labels, folder, resized=resized, threads=workload.threads)


write_ffcv_raw = partial(_write_train, "raw")
write_ffcv_jpg = partial(_write_train, "jpg")


class Ffcv(SelfShuffling):
    """Deliver with FFCV's Loader, decoders and transforms.

    Args:
        name: the row, whose folder holds the beton.
        workload: what to deliver.
    """

    def __init__(self, name: str, workload: Workload) -> None:
        from ffcv.fields.decoders import IntDecoder
        from ffcv.loader import Loader, OrderOption
        from ffcv.transforms import Squeeze, ToDevice, ToTensor, ToTorchImage

        path = str(workload.folder(name) / "train.beton")
        to_device = (
            [ToDevice(workload.torch_device, non_blocking=True)]
            if workload.torch_device.type == "cuda"
            else []
        )
        labels = [IntDecoder(), ToTensor(), Squeeze(), *to_device]
        images = [*_ffcv_augmentation(workload), ToTensor(), *to_device, ToTorchImage()]
        self.files = [path]
        self.loader: Any = Loader(
            path,
            batch_size=workload.batch_size,
            num_workers=workload.threads,
            os_cache=True,
            order=OrderOption.RANDOM,
            drop_last=True,
            pipelines={"image": images, "label": labels},
        )

    def epoch(self, number: int) -> Iterator[Delivery]:
        """Yield one pass in FFCV's own order."""
        for images, labels in self.loader:
            yield Delivery(len(labels), images, labels)

    def close(self) -> None:
        """Release the loader, which holds a memory map of the file."""
        self.loader = None


def _ffcv_augmentation(workload: Workload) -> list[Any]:
    from ffcv.fields.decoders import RandomResizedCropRGBImageDecoder, SimpleRGBImageDecoder
    from ffcv.transforms import RandomHorizontalFlip, RandomTranslate

    policy = workload.policy
    side = workload.image_size
    flip = [] if policy.flip == "none" else [RandomHorizontalFlip()]
    if policy.crop == "resized":
        return [
            RandomResizedCropRGBImageDecoder((side, side), scale=policy.area, ratio=policy.aspect),
            *flip,
        ]
    shift = (
        [RandomTranslate(padding=policy.shift, fill=_fill(workload))]
        if policy.crop == "shift"
        else []
    )
    return [SimpleRGBImageDecoder(), *flip, *shift]


def _fill(workload: Workload) -> tuple[int, int, int]:
    """Return the fill of a shift: black where the recipe says so, otherwise the mean, as in FFCV's CIFAR example."""
    mean = [0.0] * 3 if workload.policy.pad == "zero" else workload.manifest.mean
    red, green, blue = (round(255 * value) for value in (mean * 3)[:3])
    return red, green, blue


class Dali(SelfShuffling):
    """Deliver with DALI's readers.file pipeline and its iterator for PyTorch."""

    works_ahead = True

    def __init__(self, workload: Workload) -> None:
        from nvidia.dali.plugin.base_iterator import LastBatchPolicy
        from nvidia.dali.plugin.pytorch import DALIClassificationIterator

        self.files = workload.files
        self._pipeline = _dali_pipeline(workload)
        self.iterator = DALIClassificationIterator(
            self._pipeline,
            reader_name="Reader",
            last_batch_policy=LastBatchPolicy.DROP,
            auto_reset=True,
        )

    def epoch(self, number: int) -> Iterator[Delivery]:
        """Yield one pass in DALI's own order."""
        for (batch,) in self.iterator:
            yield Delivery(len(batch["label"]), batch["data"], batch["label"].squeeze(1))

    def close(self) -> None:
        """Release the pipeline, which ends its threads."""
        del self.iterator, self._pipeline


def _dali_pipeline(workload: Workload) -> Any:
    from nvidia.dali import fn, pipeline_def, types

    gpu = workload.torch_device.type == "cuda"
    labels_N = [int(label) for label in workload.labels]

    @pipeline_def(
        batch_size=workload.batch_size,
        num_threads=workload.threads,
        device_id=0 if gpu else None,
        seed=0,
    )
    def pipeline() -> Any:
        encoded, labels = fn.readers.file(
            files=workload.files,
            labels=labels_N,
            random_shuffle=True,
            name="Reader",
            pad_last_batch=True,
        )
        images = _dali_images(workload, encoded, "mixed" if gpu else "cpu")
        mirror = fn.random.coin_flip(probability=0.0 if workload.policy.flip == "none" else 0.5)
        channels = workload.manifest.channels
        images = fn.crop_mirror_normalize(
            images.gpu() if gpu else images,
            dtype=types.UINT8,
            output_layout="HWC",
            mean=[0.0] * channels,
            std=[1.0] * channels,
            mirror=mirror,
        )

        return images, labels.gpu() if gpu else labels

    built = pipeline()
    built.build()

    return built


def _dali_images(workload: Workload, encoded: Any, device: str) -> Any:
    """Decode and crop to the size of the batch, without mirroring."""
    from nvidia.dali import fn, types

    policy = workload.policy
    side = workload.image_size
    color = types.GRAY if workload.manifest.channels == 1 else types.RGB
    if policy.crop == "resized":
        images = fn.decoders.image_random_crop(
            encoded,
            device=device,
            output_type=color,
            random_area=policy.area,
            random_aspect_ratio=policy.aspect,
        )
        return fn.resize(
            images, resize_x=side, resize_y=side, interp_type=types.INTERP_LINEAR, antialias=True
        )
    images = fn.decoders.image(encoded, device=device, output_type=color)
    if policy.crop != "shift":
        return images
    reach = policy.shift
    corner = fn.random.uniform(
        range=np.array([-reach - 0.5, reach + 0.5], np.float32).tolist(), shape=2
    )

    return fn.slice(
        images,
        start=fn.cast(corner, dtype=types.INT32),
        shape=[side, side],
        axes=[0, 1],
        out_of_bounds_policy="pad",
        fill_values=_fill(workload)[: workload.manifest.channels],
    )
