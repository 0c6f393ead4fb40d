"""File bytes to checked pixels: everything is decoded to its last row, and what cannot be is named with the reason."""

from __future__ import annotations

import io
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

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
_ROTATABLE = ("JPEG", "MPO", "PNG", "WEBP", "TIFF")  # formats with an EXIF orientation


class BadImageError(ValueError):
    """An image that must not get into the shards; the text is the reason."""


def decode(data: bytes, suffix: str) -> Uint8:
    """Decode an image as it is meant to be seen.

    EXIF rotation is applied, transparency laid over white, 16 bits cut to the upper 8, an animation shown by its first
    frame; palette, CMYK and other colours become RGB.

    Args:
        data: the file.
        suffix: of its name, as ".jpg"; content of another format is refused.

    Returns:
        uint8 [H, W, 1] of grey images (modes 1, L, LA and 16-bit), else [H, W, 3].

    Raises:
        BadImageError: empty, truncated, not an image, larger than MAX_PIXELS, or of another format than its suffix.
    """
    if not data:
        raise BadImageError("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
        _check(image, suffix)
        image.load()
        return _pixels(_upright(image))
    except UnidentifiedImageError:
        raise BadImageError("not an image of a known format") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImageError(f"more than {MAX_PIXELS} pixels (a decompression bomb?)") from None
    except (OSError, SyntaxError, EOFError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, BadImageError):
            raise
        raise BadImageError(f"cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}") from error


def _check(image: Image.Image, suffix: str) -> None:
    formats = _SUFFIXES.get(suffix.lower())
    if formats is not None and image.format not in formats:
        raise BadImageError(f"holds {image.format}, though its name ends in {suffix}")
    if image.width * image.height > MAX_PIXELS:
        raise BadImageError(f"more than {MAX_PIXELS} pixels (a decompression bomb?)")


def _upright(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image) if image.format in _ROTATABLE else image


def _pixels(image: Image.Image) -> Uint8:
    mode = image.mode
    if mode in ("L", "RGB"):
        pixels = np.asarray(image)
    elif mode == "1":
        pixels = np.asarray(image.convert("L"))
    elif mode.startswith("I"):
        pixels = (np.clip(np.asarray(image), 0, 0xFFFF) >> 8).astype(np.uint8)
    elif mode == "F":
        raise BadImageError("floating-point pixels, whose range is not known")
    elif mode in ("LA", "La"):
        pixels = np.asarray(_over_white(image.convert("RGBA")).convert("L"))
    elif mode in ("RGBA", "RGBa", "PA") or "transparency" in image.info:
        pixels = np.asarray(_over_white(image.convert("RGBA")))
    else:
        pixels = np.asarray(image.convert("RGB"))
    return pixels.reshape(image.height, image.width, -1)


def _over_white(image: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def resized_whole(pixels: Uint8, side: int) -> Uint8:
    """The whole image as side x side px, antialiased bilinear: uint8 [H, W, C] -> [side, side, C]."""
    channels = pixels.shape[2]
    image = Image.fromarray(pixels if channels == 3 else pixels[:, :, 0])
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)).reshape(side, side, channels)


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
