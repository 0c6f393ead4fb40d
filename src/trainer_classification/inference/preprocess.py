"""Turn images into the batches that a run's evaluation sees: decoded as when preparing, then viewed by the loaders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from trainer_classification.arrays import Uint8
from trainer_classification.augment.reference import Layout
from trainer_classification.data.decode import (
    BadImageError,
    ImageInfo,
    decode_for_array,
    decode_with_info,
    pad,
    pixels_of_image,
    plain_jpeg,
    resize_x_first,
)
from trainer_classification.data.formats import GRAY_SHIFT
from trainer_classification.files import read_file
from trainer_classification.plan import Policy, central_boxes, identity

if TYPE_CHECKING:
    from PIL.Image import Image

    from trainer_classification.checkpoint.load_model import Model

    ImageSource: TypeAlias = (
        str | os.PathLike[str] | bytes | Image | np.ndarray[tuple[int, ...], np.dtype[np.generic]]
    )


class LoadedImage(NamedTuple):
    """An image as it is prepared.

    Attributes:
        pixels: uint8 [S, S, C], in `Preprocess.layout`.
        width: of the original, upright, in px.
        height: of the original, upright, in px.
    """

    pixels: Uint8
    width: int
    height: int


@dataclass(frozen=True)
class Preprocess:
    """How a model wants its images.

    Attributes:
        image_size: side T of the images the network sees, in px.
        channels: of these, 1 or 3.
        array_size: side S of the prepared images, in px.
        resized: whether images are resized to S when they are prepared; else they
            keep their size, and are padded.
        eval_crop: side of the central square that is seen, as a fraction of the
            original's short side; 0: the whole image. Images that keep their size
            are seen whole.
        gray_shift: bits that gray images of 16 and 32 bits lose.
    """

    image_size: int
    channels: int
    array_size: int
    resized: bool
    eval_crop: float = 0.0
    gray_shift: int = GRAY_SHIFT

    @classmethod
    def of_model(cls, model: Model) -> Preprocess:
        """Return that of a model's own evaluation."""
        return cls(
            model.image_size,
            model.channels,
            model.array_size,
            model.resized,
            model.eval_crop,
            model.gray_shift,
        )

    @property
    def layout(self) -> Layout:
        """Order of a prepared image's bytes."""
        return "WHC" if self.resized else "HWC"

    def load(self, source: ImageSource) -> LoadedImage:
        """Decode an image as `prepare` does.

        An image that is larger than those of a dataset whose images kept their
        size is resized whole to their size.

        Args:
            source: path of a file, or its content, or a PIL image, or an array [H,
                W] or [H, W, C] with 1 to 4 channels: gray, gray with alpha, RGB or
                RGBA.

        Raises:
            BadImageError: it cannot be read or decoded; the text is the reason.
        """
        if isinstance(source, str | os.PathLike):
            return self._decode(_read(os.fspath(source)))
        if isinstance(source, bytes):
            return self._decode(source)
        pixels = _pixels_of(source, self.gray_shift)
        height, width = pixels.shape[:2]
        prepared = resize_x_first(pixels, self.array_size) if self.resized else self._fit(pixels)

        return LoadedImage(match_channels(prepared, self.channels), width, height)

    def make_batch(self, images: Sequence[LoadedImage], device: torch.device) -> Tensor:
        """Return the evaluation's view of loaded images: uint8 [B, T, T, C] on the device."""
        stacked = np.stack([image.pixels for image in images])
        is_cropped = self.resized and self.eval_crop > 0
        if stacked.shape[1] == self.image_size and not is_cropped:
            return torch.from_numpy(stacked).to(device)

        index = np.arange(len(images))
        sizes = np.array([(image.width, image.height) for image in images])
        boxes = central_boxes(sizes, self.eval_crop) if is_cropped else None
        draws = identity(len(images), boxes)
        policy = Policy(crop="resized") if is_cropped else Policy()
        if device.type == "cpu":
            from trainer_classification.augment import (
                cpu,
            )  # numba: not for images that kept their size

            return torch.from_numpy(
                cpu.augment(stacked, index, draws, policy, self.image_size, self.layout)
            )

        from trainer_classification.augment import device as on_device

        return on_device.augment(
            torch.from_numpy(stacked).to(device),
            torch.from_numpy(index).to(device),
            on_device.to_device(draws, device),
            policy,
            self.image_size,
            self.layout,
        )

    def _decode(self, data: bytes) -> LoadedImage:
        info = plain_jpeg(data)
        if self.resized:
            decoded = decode_for_array(info, data, self.array_size, self.gray_shift)
            return self._finish(decoded.info, decoded.resize_x_first(self.array_size))
        small = decode_with_info(info, data, self.gray_shift)
        return self._finish(small.info, self._fit(small.pixels))

    def _finish(self, info: ImageInfo, pixels: Uint8) -> LoadedImage:
        return LoadedImage(match_channels(pixels, self.channels), info.width, info.height)

    def _fit(self, pixels: Uint8) -> Uint8:
        """Pad an image to S x S, or resize it whole where it is larger: uint8 [H, W, C] to [S, S, C]."""
        if max(pixels.shape[:2]) <= self.array_size:
            return pad(pixels, self.array_size)
        from PIL import Image

        image = _to_pillow(pixels).resize(
            (self.array_size, self.array_size), Image.Resampling.BILINEAR
        )
        return np.asarray(image).reshape(self.array_size, self.array_size, -1)


def _read(path: str) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise BadImageError(f"cannot be read: {error.strerror or error}") from None


def match_channels(pixels: Uint8, channels: int) -> Uint8:
    """Repeat a gray channel, or weigh colors to gray: uint8 [H, W, 1 or 3] to [H, W, channels]."""
    found = pixels.shape[2]
    if found < channels:
        return np.repeat(pixels, channels, 2)
    if found > channels:
        return np.asarray(_to_pillow(np.ascontiguousarray(pixels)).convert("L"))[:, :, None]
    return pixels


def _to_pillow(pixels: Uint8) -> Image:
    from PIL import Image

    return Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])


def _pixels_of(
    source: Image | np.ndarray[tuple[int, ...], np.dtype[np.generic]], gray_shift: int
) -> Uint8:
    """Return the pixels of a PIL image or an array, upright: uint8 [H, W, 1] or [H, W, 3].

    Raises:
        BadImageError: it is empty, has another shape or type than an image, or
            cannot be decoded.
    """
    from PIL import Image, ImageOps

    if isinstance(source, np.ndarray):
        array = source[:, :, 0] if source.ndim == 3 and source.shape[2] == 1 else source
        if not array.size or array.ndim not in (2, 3):
            raise BadImageError(f"an array of shape {list(source.shape)}, which is no image")
        if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3:
            return np.ascontiguousarray(array)
        try:
            source = Image.fromarray(np.ascontiguousarray(array))
        except (TypeError, ValueError):
            raise BadImageError(
                f"an array of {array.dtype} {list(array.shape)}, which is no image"
            ) from None
    try:
        return pixels_of_image(ImageOps.exif_transpose(source), gray_shift)
    except OSError as error:
        raise BadImageError(f"cannot be decoded: {error}") from None
