"""File bytes to checked pixels: everything is decoded to its last row, and what cannot be is named with the reason."""

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

if TYPE_CHECKING:
    from trainer_classification.kernels.planes import Planes

Uint8 = npt.NDArray[np.uint8]

MAX_PIXELS = 89_478_485  # Pillow's own bound for a decompression bomb: a quarter of a gigabyte as RGB
_SUFFIXES = {
    ".jpg": ("JPEG", "MPO"),
    ".jpeg": ("JPEG", "MPO"),
    ".png": ("PNG",),
    ".webp": ("WEBP",),
    ".bmp": ("BMP", "DIB"),
    ".gif": ("GIF",),
    ".tif": ("TIFF",),
    ".tiff": ("TIFF",),
}
SUFFIXES = tuple(_SUFFIXES)  # of files that are images
_ROTATABLE = ("JPEG", "MPO", "PNG", "WEBP", "TIFF")  # formats with an EXIF orientation


_ORIENTATION = 0x0112  # EXIF
_SEGMENT = struct.Struct(">BBH")  # a JPEG's: 0xFF, its marker, its length without these two
_APP1, _SCAN = 0xE1, 0xDA
_PNG_DEPTH = 24  # where a PNG says its bits per channel
_LEAST = 32  # px: a vector of the kernel that sharpens
_SHRINK = 4  # from here on Pillow resizes: the kernels' 8-bit weights get coarse
# Width of the filter for images that are resized again when they are cropped, or they would be blurred twice: crops of
# caltech-101 come a tenth closer to those of the originals than with 1 (docs/engines.md).
_SHARPER = 0.75


class BadImageError(ValueError):
    """An image that must not get into the shards; the text is the reason."""


class ImageInfo(NamedTuple):
    """What an image is, and whether the file itself may go into a shard.

    Attributes:
        width, height: in px, upright.
        channels: 1 (grey) or 3.
        kind: "jpeg" or "png" where any decoder shows the same pixels of the file: no palette, transparency, CMYK,
            16 bits or damage; "" else.
        upright: no EXIF rotation was applied.
    """

    width: int
    height: int
    channels: int
    kind: Literal["jpeg", "png", ""]
    upright: bool = True


class DecodedImage(NamedTuple):
    """An image: its head, and its pixels, uint8 [H, W, 1] or [H, W, 3], upright."""

    head: ImageInfo
    pixels: Uint8

    def resized(self, width: int, height: int) -> Uint8:
        """The whole image at another size, antialiased bilinear: uint8 [height, width, C]."""
        return resized(self.pixels, width, height)

    def x_first(self, side: int) -> Uint8:
        """The whole image as the array has it: a square, x before y, sharper: uint8 [side, side, C], [x, y, c]."""
        return resized_x_first(self.pixels, side)


@dataclass
class YCbCrImage:
    """As Decoded, of a JPEG that is resized as it is stored, as Y, Cb and Cr: quicker and, for the array, sharper.

    Args:
        head: of the image.
        about, buffer: of `kernels.jpeg.decode`.
        whole: gives its pixels, where they are wanted after all.
    """

    head: ImageInfo
    about: Planes
    buffer: Uint8
    whole: Callable[[], DecodedImage]

    @cached_property
    def pixels(self) -> Uint8:
        """As of Decoded; only now the image is decoded to RGB."""
        return self.whole().pixels

    def resized(self, width: int, height: int) -> Uint8:
        """As of Decoded."""
        if _coarse(self.head.width, self.head.height, width, height):
            return resized(self.pixels, width, height)
        from trainer_classification.kernels import planes

        return planes.whole(self.about, self.buffer, width, height)

    def x_first(self, side: int) -> Uint8:
        """As of Decoded."""
        if _coarse(self.head.width, self.head.height, side, side) or min(self.head.width, side) < _LEAST:
            return resized_x_first(self.pixels, side)
        from trainer_classification.kernels import planes

        return planes.whole_x_first(self.about, self.buffer, side)


def decode(data: bytes, suffix: str) -> Uint8:
    """The pixels of `examine`, uint8 [H, W, C]."""
    return decode_checked(data, suffix).pixels


def decode_checked(data: bytes, suffix: str) -> DecodedImage:
    """Decode an image as it is meant to be seen.

    EXIF rotation is applied, transparency laid over white, 16 bits cut to the upper 8, an animation shown by its first
    frame; palette, CMYK and other colours become RGB.

    Args:
        data: the file.
        suffix: of its name, as ".jpg"; content of another format is refused.

    Returns:
        One channel for grey images (modes 1, L, LA and 16-bit), else three.

    Raises:
        BadImageError: empty, truncated, not an image, larger than MAX_PIXELS, or of another format than its suffix.
    """
    return decode_with_info(plain_jpeg(data, suffix), data, suffix)


def decode_with_info(head: ImageInfo | None, data: bytes, suffix: str) -> DecodedImage:
    """As `examine`, where `plain_jpeg` was asked before."""
    return (head and _by_turbo(data, head)) or _by_pillow(data, suffix)


def decode_for_resize(head: ImageInfo | None, data: bytes, suffix: str) -> DecodedImage | YCbCrImage:
    """As `examine_as`, for an image of which other sizes are wanted first of all."""
    whole = partial(decode_with_info, head, data, suffix)
    if head is None:
        return whole()
    from trainer_classification.kernels import jpeg  # numba: only who prepares needs it

    sound, about, buffer = jpeg.decode(np.frombuffer(data, np.uint8))
    return YCbCrImage(head, about, buffer, whole) if sound else whole()


def plain_jpeg(data: bytes, suffix: str) -> ImageInfo | None:
    """The head of a JPEG as nearly all are; None: Pillow has to look, which also says what is wrong."""
    head = _jpeg_head(data) if "JPEG" in _SUFFIXES.get(suffix.lower(), ("JPEG",)) else None
    return None if head is None or _rotated(data) else head


def is_sound(data: bytes) -> bool:
    """Whether all of a JPEG can be decoded, at a third of the cost: every code of every plane is read, as only that can
    fail, but the pixels made of them are luma's at an eighth of the size.
    """
    try:
        simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1)
    except ValueError:
        return False
    return True


def _by_turbo(data: bytes, head: ImageInfo) -> DecodedImage | None:
    try:
        return DecodedImage(head, simplejpeg.decode_jpeg(data, "GRAY" if head.channels == 1 else "RGB"))
    except ValueError:
        return None


def _jpeg_head(data: bytes) -> ImageInfo | None:
    """Of a JPEG that libjpeg-turbo reads as it is meant."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if colours not in ("YCbCr", "Gray") or height * width > MAX_PIXELS:
        return None
    return ImageInfo(width, height, 1 if colours == "Gray" else 3, "jpeg")


def _rotated(data: bytes) -> bool:
    """Whether a JPEG is to be turned or mirrored for viewing."""
    if not _may_have_exif(data):
        return False
    try:
        with Image.open(io.BytesIO(data)) as image:
            return bool(image.getexif().get(_ORIENTATION, 1) != 1)
    except (OSError, SyntaxError, ValueError):
        return True  # for Pillow to say what is wrong


def _may_have_exif(data: bytes) -> bool:
    """Whether a JPEG has EXIF data, or is not laid out as it should be: by its segments up to the scan (T.81, B.1)."""
    at = 2
    while at + _SEGMENT.size <= len(data):
        start, marker, length = _SEGMENT.unpack_from(data, at)
        if start != 0xFF or marker == 0xFF or (marker == _APP1 and data.startswith(b"Exif\0\0", at + _SEGMENT.size)):
            return True
        if marker == _SCAN:
            return False
        at += 2 + length
    return True


def _by_pillow(data: bytes, suffix: str) -> DecodedImage:
    if not data:
        raise BadImageError("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
        _check(image, suffix)
        image.load()
        upright = image.format not in _ROTATABLE or image.getexif().get(_ORIENTATION, 1) == 1
        pixels = pixels_of_image(image if upright else ImageOps.exif_transpose(image))
        height, width, channels = pixels.shape
        return DecodedImage(ImageInfo(width, height, channels, _kind(image, data), upright), pixels)
    except UnidentifiedImageError:
        raise BadImageError("not an image of a known format") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImageError(f"more than {MAX_PIXELS} pixels (a decompression bomb?)") from None
    except (OSError, SyntaxError, EOFError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, BadImageError):
            raise
        raise BadImageError(f"cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}") from error


def _kind(image: Image.Image, data: bytes) -> Literal["jpeg", "png", ""]:
    if image.format in ("JPEG", "MPO"):
        # Pillow reads over damage that libjpeg-turbo warns of, and for the ffcv loader a warning is an error.
        return "jpeg" if _jpeg_head(data) and is_sound(data) else ""
    plain = image.format == "PNG" and image.mode in ("L", "RGB") and "transparency" not in image.info
    return "png" if plain and data[_PNG_DEPTH] <= 8 else ""


def is_grey(path: str) -> bool:
    """Whether an image is grey, by its head alone; False where it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.mode[0] in "1LI"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def _check(image: Image.Image, suffix: str) -> None:
    formats = _SUFFIXES.get(suffix.lower())
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


def resized(pixels: Uint8, width: int, height: int) -> Uint8:
    """The whole image at another size, antialiased bilinear: uint8 [H, W, C] -> [height, width, C]."""
    if _coarse(pixels.shape[1], pixels.shape[0], width, height):
        return _resized_by_pillow(pixels, width, height)
    from trainer_classification.kernels import resize  # numba: only who prepares needs it

    return resize.whole(pixels, width, height)


def resized_x_first(pixels: Uint8, side: int) -> Uint8:
    """As `resized` to a square, but x before y and sharper: uint8 [H, W, C] -> [side, side, C], [x, y, c]."""
    if _coarse(pixels.shape[1], pixels.shape[0], side, side):
        sharper = Image.Resampling.HAMMING
        return np.ascontiguousarray(_resized_by_pillow(pixels, side, side, sharper).swapaxes(0, 1))
    from trainer_classification.kernels import resize

    return resize.whole_x_first(pixels, side, side, _SHARPER)


def _coarse(width: int, height: int, to_width: int, to_height: int) -> bool:
    return width > _SHRINK * to_width or height > _SHRINK * to_height


def _resized_by_pillow(
    pixels: Uint8, width: int, height: int, resampling: Image.Resampling = Image.Resampling.BILINEAR
) -> Uint8:
    channels = pixels.shape[2]
    image = Image.fromarray(pixels if channels == 3 else pixels[:, :, 0])
    return np.asarray(image.resize((width, height), resampling)).reshape(height, width, channels)


def padded(pixels: Uint8, side: int) -> Uint8:
    """The image in the middle of side x side px of zeros: uint8 [H, W, C] -> [side, side, C].

    Raises:
        BadImageError: it is larger.
    """
    height, width, channels = pixels.shape
    if height > side or width > side:
        raise BadImageError(f"{width}x{height} px, though the dataset's table says at most {side}")
    if height == width == side:
        return pixels
    out = np.zeros((side, side, channels), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    out[top : top + height, left : left + width] = pixels
    return out
