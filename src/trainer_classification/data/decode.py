"""Decode image files to checked pixels. Every file is decoded to its last row; if that fails, the reason is given."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from trainer_classification.data.image_suffixes import SNIFFED_BYTES, register_plugin, sniff

if TYPE_CHECKING:
    from trainer_classification.kernels.planes import Planes

Uint8 = npt.NDArray[np.uint8]

MAX_PIXELS = 89_478_485  # Pillow's own limit for a decompression bomb: a quarter of a gigabyte as RGB
_FORMATS_OF_SUFFIX = {
    ".jpg": ("JPEG", "MPO"),
    ".jpeg": ("JPEG", "MPO"),
    ".png": ("PNG",),
    ".webp": ("WEBP",),
    ".bmp": ("BMP", "DIB"),
    ".gif": ("GIF",),
    ".tif": ("TIFF",),
    ".tiff": ("TIFF",),
}
_FORMATS_WITH_ORIENTATION = ("JPEG", "MPO", "PNG", "WEBP", "TIFF")
_ORIENTATION = 0x0112  # EXIF tag; 1 is upright
SUFFIXES = tuple(_FORMATS_OF_SUFFIX)  # of files that are images

# Segments of a JPEG start with 0xFF, their marker, and their length without these two bytes (T.81, B.1).
_SEGMENT = struct.Struct(">BBH")
_APP1 = 0xE1
_START_OF_SCAN = 0xDA
_PNG_DEPTH_OFFSET = 24  # of the bits per channel in a PNG

_MIN_SIDE = 32  # px: the vector width of the kernel that sharpens
_MAX_SHRINK = 4  # beyond this Pillow resizes: the 8-bit weights of the kernels get coarse
# Width of the filter, of Pillow's, for images that are resized again when they are cropped: with the whole width these
# would be blurred twice, and crops of caltech-101 differ a tenth more from those of the originals (docs/engines.md).
_FILTER_WIDTH = 0.75


class BadImageError(ValueError):
    """An image that must not get into the shards; the text is the reason."""


class ImageInfo(NamedTuple):
    """What an image file holds, and whether the file itself may go into a shard.

    Attributes:
        width, height: in px, upright.
        channels: 1 (gray) or 3.
        kind: "jpeg" or "png" if every decoder shows the same pixels: no palette, transparency, CMYK, 16 bits or
            damage; else "".
        upright: no EXIF rotation was applied.
    """

    width: int
    height: int
    channels: int
    kind: Literal["jpeg", "png", ""]
    upright: bool = True


class DecodedImage(NamedTuple):
    """A decoded image.

    Attributes:
        info: about its file.
        pixels: uint8 [H, W, 1] or [H, W, 3], upright.
    """

    info: ImageInfo
    pixels: Uint8

    def resize(self, width: int, height: int) -> Uint8:
        """Resize the whole image, antialiased bilinear: uint8 [height, width, C]."""
        return resize(self.pixels, width, height)

    def resize_x_first(self, side: int) -> Uint8:
        """Resize the whole image to what the array holds: a square, sharper, uint8 [side, side, C] as [x, y, c]."""
        return resize_x_first(self.pixels, side)


@dataclass
class YCbCrImage:
    """A JPEG as the Y, Cb and Cr that it stores, with the methods of `DecodedImage`.

    Resizing these is faster than resizing RGB, and for the array sharper.

    Args:
        info: about its file.
        planes: where Y, Cb and Cr are, from `kernels.jpeg.decode`.
        buffer: uint8, that holds them.
        decode_rgb: decodes it to RGB, where that is needed after all.
    """

    info: ImageInfo
    planes: Planes
    buffer: Uint8
    decode_rgb: Callable[[], DecodedImage]

    @cached_property
    def pixels(self) -> Uint8:
        """The image as RGB, or gray: uint8 [H, W, C]. It is decoded when first asked for."""
        return self.decode_rgb().pixels

    def resize(self, width: int, height: int) -> Uint8:
        """Resize the whole image, antialiased bilinear: uint8 [height, width, C]."""
        if _shrinks_much(self.info.width, self.info.height, width, height):
            return resize(self.pixels, width, height)
        from trainer_classification.kernels import planes

        return planes.whole(self.planes, self.buffer, width, height)

    def resize_x_first(self, side: int) -> Uint8:
        """Resize the whole image to what the array holds: a square, sharper, uint8 [side, side, C] as [x, y, c]."""
        too_small = min(self.info.width, side) < _MIN_SIDE
        if too_small or _shrinks_much(self.info.width, self.info.height, side, side):
            return resize_x_first(self.pixels, side)
        from trainer_classification.kernels import planes

        return planes.whole_x_first(self.planes, self.buffer, side)


def decode(data: bytes, suffix: str) -> Uint8:
    """Return the pixels of `decode_checked`: uint8 [H, W, C]."""
    return decode_checked(data, suffix).pixels


def decode_checked(data: bytes, suffix: str) -> DecodedImage:
    """Decode an image as a viewer shows it.

    EXIF rotation is applied, transparency is laid over white, 16 bits are cut to the upper 8, and an animation is shown
    by its first frame. Palette, CMYK and other colors become RGB.

    Args:
        data: the file.
        suffix: of its name, as ".jpg"; content of another format is refused.

    Returns:
        The image with one channel if it is gray (modes 1, L, LA and 16-bit), else three.

    Raises:
        BadImageError: empty, truncated, not an image, larger than MAX_PIXELS, or of another format than its suffix.
    """
    return decode_with_info(plain_jpeg(data, suffix), data, suffix)


def decode_with_info(info: ImageInfo | None, data: bytes, suffix: str) -> DecodedImage:
    """Decode as `decode_checked`, given what `plain_jpeg` has returned."""
    decoded = _decode_by_turbo(data, info) if info else None
    return decoded or _decode_by_pillow(data, suffix)


def decode_for_resize(info: ImageInfo | None, data: bytes, suffix: str) -> DecodedImage | YCbCrImage:
    """Decode as `decode_with_info`, where the image is mainly wanted at other sizes."""
    decode_rgb = partial(decode_with_info, info, data, suffix)
    if info is None:
        return decode_rgb()
    from trainer_classification.kernels import jpeg  # numba: only prepare needs it

    sound, planes, buffer = jpeg.decode(np.frombuffer(data, np.uint8))
    return YCbCrImage(info, planes, buffer, decode_rgb) if sound else decode_rgb()


def plain_jpeg(data: bytes, suffix: str) -> ImageInfo | None:
    """Read the header of a JPEG without peculiarities, as nearly all are.

    Returns:
        None for anything else: Pillow has to look at it, and will say what is wrong.
    """
    if "JPEG" not in _FORMATS_OF_SUFFIX.get(suffix.lower(), ("JPEG",)):
        return None
    info = _read_jpeg_header(data)
    return None if info is None or _is_rotated(data) else info


def is_sound(data: bytes) -> bool:
    """Return whether all of a JPEG can be decoded, at a third of the cost of decoding it.

    Every code of every plane is read, because only that can fail. But pixels are made of luma only, at an eighth of
    the size.
    """
    try:
        simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1)
    except ValueError:
        return False
    return True


def _decode_by_turbo(data: bytes, info: ImageInfo) -> DecodedImage | None:
    try:
        return DecodedImage(info, simplejpeg.decode_jpeg(data, "GRAY" if info.channels == 1 else "RGB"))
    except ValueError:
        return None


def _read_jpeg_header(data: bytes) -> ImageInfo | None:
    """Return what a JPEG holds if libjpeg-turbo shows its colors as they are meant."""
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if colors not in ("YCbCr", "Gray") or height * width > MAX_PIXELS:
        return None
    return ImageInfo(width, height, 1 if colors == "Gray" else 3, "jpeg")


def _is_rotated(data: bytes) -> bool:
    """Return whether a JPEG has to be turned or mirrored for viewing."""
    if not _may_have_exif(data):
        return False
    try:
        with Image.open(io.BytesIO(data)) as image:
            return bool(image.getexif().get(_ORIENTATION, 1) != 1)
    except (OSError, SyntaxError, ValueError):
        return True  # leave it to Pillow, which will say what is wrong


def _may_have_exif(data: bytes) -> bool:
    """Return whether a JPEG has EXIF data before its scan, or is not made of segments as it should be."""
    position = 2
    while position + _SEGMENT.size <= len(data):
        start, marker, length = _SEGMENT.unpack_from(data, position)
        if start != 0xFF or marker == 0xFF:
            return True
        if marker == _APP1 and data.startswith(b"Exif\0\0", position + _SEGMENT.size):
            return True
        if marker == _START_OF_SCAN:
            return False
        position += 2 + length
    return True


def _decode_by_pillow(data: bytes, suffix: str) -> DecodedImage:
    if not data:
        raise BadImageError("empty file")
    register_plugin(sniff(data[:SNIFFED_BYTES]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
        _check(image, suffix)
        image.load()
        upright = image.format not in _FORMATS_WITH_ORIENTATION or image.getexif().get(_ORIENTATION, 1) == 1
        pixels = pixels_of_image(image if upright else ImageOps.exif_transpose(image))
        height, width, channels = pixels.shape
        return DecodedImage(ImageInfo(width, height, channels, _kind(image, data), upright), pixels)
    except UnidentifiedImageError:
        raise BadImageError("not an image of a known format") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImageError(f"more than {MAX_PIXELS} pixels (a decompression bomb?)") from None
    except BadImageError:
        raise
    except (OSError, SyntaxError, EOFError, IndexError, TypeError, ValueError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise BadImageError(f"cannot be decoded: {text}") from error


def _kind(image: Image.Image, data: bytes) -> Literal["jpeg", "png", ""]:
    if image.format in ("JPEG", "MPO"):
        # Pillow tolerates damage that libjpeg-turbo warns about, and the ffcv loader takes a warning for an error.
        return "jpeg" if _read_jpeg_header(data) and is_sound(data) else ""
    plain = image.format == "PNG" and image.mode in ("L", "RGB") and "transparency" not in image.info
    return "png" if plain and data[_PNG_DEPTH_OFFSET] <= 8 else ""


def is_gray(path: str) -> bool:
    """Return whether an image is gray, by its header alone; False where it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.mode[0] in "1LI"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def read_size(path: str) -> tuple[int, int] | None:
    """Return width and height in px, by the header alone; None where it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _check(image: Image.Image, suffix: str) -> None:
    formats = _FORMATS_OF_SUFFIX.get(suffix.lower())
    if formats is not None and image.format not in formats:
        raise BadImageError(f"holds {image.format}, though its name ends in {suffix}")
    if image.width * image.height > MAX_PIXELS:
        raise BadImageError(f"more than {MAX_PIXELS} pixels (a decompression bomb?)")


def pixels_of_image(image: Image.Image) -> Uint8:
    """Return the pixels of a loaded image, as `decode_checked` shows it but not turned: uint8 [H, W, 1] or [H, W, 3].

    Raises:
        BadImageError: its pixels are floating-point numbers.
    """
    mode = image.mode
    if mode.startswith("I"):
        values = np.asarray(image)
        pixels = (np.clip(values, 0, 0xFFFF) >> 8).astype(np.uint8)
        pixels[values == image.info.get("transparency", -1)] = 255  # white
    elif mode == "F":
        raise BadImageError("floating-point pixels, whose range is not known")
    elif mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info:
        shown = _over_white(image.convert("RGBA"))
        pixels = np.array(shown.convert("L") if mode in ("1", "L", "LA", "La") else shown)
    elif mode in ("L", "RGB"):
        pixels = np.array(image)
    elif mode == "1":
        pixels = np.array(image.convert("L"))
    else:
        pixels = np.array(image.convert("RGB"))
    return pixels.reshape(image.height, image.width, -1)


def _over_white(image: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def resize(pixels: Uint8, width: int, height: int) -> Uint8:
    """Resize a whole image, antialiased bilinear: uint8 [H, W, C] -> [height, width, C]."""
    if _shrinks_much(pixels.shape[1], pixels.shape[0], width, height):
        return _resize_by_pillow(pixels, width, height)
    from trainer_classification.kernels import resize as kernels  # numba: only prepare needs it

    return kernels.whole(pixels, width, height)


def resize_x_first(pixels: Uint8, side: int) -> Uint8:
    """Resize a whole image to a square, sharper, and transpose it: uint8 [H, W, C] -> [side, side, C] as [x, y, c]."""
    if _shrinks_much(pixels.shape[1], pixels.shape[0], side, side):
        resized = _resize_by_pillow(pixels, side, side, Image.Resampling.HAMMING)  # sharper than bilinear
        return np.ascontiguousarray(resized.swapaxes(0, 1))
    from trainer_classification.kernels import resize as kernels

    return kernels.whole_x_first(pixels, side, side, _FILTER_WIDTH)


def _shrinks_much(width: int, height: int, to_width: int, to_height: int) -> bool:
    return width > _MAX_SHRINK * to_width or height > _MAX_SHRINK * to_height


def _resize_by_pillow(
    pixels: Uint8, width: int, height: int, resampling: Image.Resampling = Image.Resampling.BILINEAR
) -> Uint8:
    channels = pixels.shape[2]
    image = Image.fromarray(pixels if channels == 3 else pixels[:, :, 0])
    return np.asarray(image.resize((width, height), resampling)).reshape(height, width, channels)


def pad(pixels: Uint8, side: int) -> Uint8:
    """Pad an image with zeros on all sides: uint8 [H, W, C] -> [side, side, C].

    Raises:
        BadImageError: it is larger.
    """
    height, width, channels = pixels.shape
    if height > side or width > side:
        raise BadImageError(f"{width}x{height} px, though the dataset's table says at most {side}")
    if height == width == side:
        return pixels

    out = np.zeros((side, side, channels), np.uint8)
    top = (side - height) // 2
    left = (side - width) // 2
    out[top : top + height, left : left + width] = pixels
    return out


# ADAPTER: former names, to delete when loaders/torch_dataloader.py and tests/unit/test_kernels.py use the new ones.
padded = pad
resized = resize
resized_x_first = resize_x_first
