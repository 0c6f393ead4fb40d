"""Decode image files to checked pixels.

Every file is decoded to its last row; if that fails, the reason is given.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from trainer_classification.arrays import Uint8
from trainer_classification.data import png_chunks
from trainer_classification.data.formats import GRAY_SHIFT
from trainer_classification.data.image_suffixes import (
    SNIFFED_BYTES,
    advise,
    register_plugin,
    sniff,
)
from trainer_classification.data.jpeg_segments import is_dct, is_progressive
from trainer_classification.data.orientation import UPRIGHT, may_be_turned, read_orientation
from trainer_classification.files import read_file

if TYPE_CHECKING:
    from trainer_classification.kernels.planes import Planes


MAX_PIXELS = (
    89_478_485  # Pillow's own limit for a decompression bomb: a quarter of a gigabyte as RGB
)
_FORMATS_WITH_ORIENTATION = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "AVIF")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_SIDEWAYS = (5, 6, 7, 8)  # turns that swap width and height

# At most, about: of Pillow's images, which have 4 bytes a pixel, several are there
# at once where one is turned, or laid over white.
BYTES_PER_PIXEL = 22

_PNG_DEPTH_OFFSET = 24  # of the bits per channel in a PNG
_PNG_END = b"IEND\xaeB`\x82"
_PNG_ANIMATION = b"acTL"

_MIN_SIDE = 32  # px: the vector width of the kernel that sharpens
_MAX_SHRINK = 4  # beyond this Pillow resizes: the 8-bit weights of the kernels get coarse
# Width of the filter, of Pillow's, for images that are resized again when they
# are cropped: with the whole width these would be blurred twice, and crops of
# caltech-101 differ a tenth more from those of the originals (docs/engines.md).
_FILTER_WIDTH = 0.75


class BadImageError(ValueError):
    """An image that must not get into the shards; the text is the reason."""


class ImageInfo(NamedTuple):
    """What an image file holds, and whether the file itself may go into a shard.

    Attributes:
        width, height: in px, upright.
        channels: 1 (gray) or 3.
        kind: "jpeg" or "png" if every decoder shows the same pixels: no palette,
            transparency, CMYK, 16 bits, animation, unusual note of the
            orientation or damage; else "".
        upright: the image was not turned.
        content: name of the file's format, as Pillow's.
        subsampled: a JPEG that stores its chroma with fewer pixels than its luma.
        peak: largest value of a gray image of 16 or 32 bits; 0 for others.
        has_more: the file has more pages or frames than the one that is shown.
    """

    width: int
    height: int
    channels: int
    kind: Literal["jpeg", "png", ""]
    upright: bool = True
    content: str = "JPEG"
    subsampled: bool = False
    peak: int = 0
    has_more: bool = False


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

    def resize_to_planes(self, side: int) -> Uint8:
        """Resize the whole image to what the planes format holds, see `kernels.planes.store_x_first`."""
        return resize_to_planes(self.pixels, side)


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

    def resize_to_planes(self, side: int) -> Uint8:
        """Resize the whole image to what the planes format holds, see `kernels.planes.store_x_first`."""
        if _shrinks_much(self.info.width, self.info.height, side, side):
            return resize_to_planes(self.pixels, side)
        from trainer_classification.kernels import planes

        return planes.store_x_first(self.planes, self.buffer, side)


class LargeJpeg:
    """A JPEG much larger than what is wanted of it, with the methods of `DecodedImage`.

    It is decoded at 1/2, 1/4 or 1/8 of its size where that leaves twice the size
    that is wanted. Of these scales libjpeg-turbo makes pixels of fewer
    coefficients, but reads all codes, so that damage is found as at full size.

    Args:
        info: about its file.
        data: the file.
        turn: how the image has to be turned for viewing, as `Orientation.turn`.
        decode_whole: decodes it at its own size, where that is needed after all.
    """

    def __init__(
        self,
        info: ImageInfo,
        data: bytes,
        turn: int,
        decode_whole: Callable[[], DecodedImage | YCbCrImage],
    ) -> None:
        self.info = info
        self._data = data
        self._turn = turn
        self._decode_whole = decode_whole
        self._reduced: dict[int, Uint8] = {}  # divisor -> pixels

    @cached_property
    def _whole(self) -> DecodedImage | YCbCrImage:
        return self._decode_whole()

    @property
    def pixels(self) -> Uint8:
        """The image at its own size as RGB, or gray: uint8 [H, W, C]."""
        return self._whole.pixels

    def resize(self, width: int, height: int) -> Uint8:
        """Resize the whole image, antialiased bilinear: uint8 [height, width, C]."""
        divisor = _choose_divisor(self.info, width, height)
        if divisor == 1:
            return self._whole.resize(width, height)
        return resize(self.reduce(divisor), width, height)

    def resize_x_first(self, side: int) -> Uint8:
        """Resize the whole image to what the array holds: a square, sharper, uint8 [side, side, C] as [x, y, c]."""
        divisor = _choose_divisor(self.info, side, side)
        if divisor == 1:
            return self._whole.resize_x_first(side)
        return resize_x_first(self.reduce(divisor), side)

    def resize_to_planes(self, side: int) -> Uint8:
        """Resize the whole image to what the planes format holds, see `kernels.planes.store_x_first`."""
        divisor = _choose_divisor(self.info, side, side)
        if divisor == 1:
            return self._whole.resize_to_planes(side)
        return resize_to_planes(self.reduce(divisor), side)

    def reduce(self, divisor: int) -> Uint8:
        """Return the image at a part of its size, upright: uint8 [H / divisor, W / divisor, C], rounded up.

        Raises:
            Exception: it cannot be decoded.
        """
        if divisor not in self._reduced:
            pixels = self._decode_at(divisor)
            if self._turn != UPRIGHT:
                gray = pixels.shape[2] == 1
                image = Image.fromarray(pixels[:, :, 0] if gray else pixels)
                turned = np.asarray(image.transpose(_TURNS[self._turn]))
                pixels = turned.reshape(*turned.shape[:2], -1)
            self._reduced[divisor] = pixels
        return self._reduced[divisor]

    def _decode_at(self, divisor: int) -> Uint8:
        width, height = self.info.width, self.info.height
        if self._turn in _SIDEWAYS:
            width, height = height, width
        return simplejpeg.decode_jpeg(
            self._data,
            "GRAY" if self.info.channels == 1 else "RGB",
            min_width=-(-width // divisor),
            min_height=-(-height // divisor),
        )


def _choose_divisor(info: ImageInfo, width: int, height: int) -> int:
    """Return the largest of 8, 4, 2 and 1 at which an image has twice a size that is wanted.

    It is 1 where the kernels resize the whole image.
    """
    if not _shrinks_much(info.width, info.height, width, height):
        return 1
    least = min(info.width / width, info.height / height) / 2
    return next((divisor for divisor in (8, 4, 2) if divisor <= least), 1)


def decode(data: bytes, gray_shift: int = GRAY_SHIFT) -> Uint8:
    """Return the pixels of `decode_checked`: uint8 [H, W, C]."""
    return decode_checked(data, gray_shift).pixels


def decode_checked(data: bytes, gray_shift: int = GRAY_SHIFT) -> DecodedImage:
    """Decode an image as a viewer shows it, by its content, whatever its name.

    It is turned upright, transparency is laid over white, 16 bits are cut to the
    upper 8, and an animation is shown by its first frame. Palette, CMYK and other
    colors become RGB.

    Args:
        data: the file.
        gray_shift: bits that gray images of 16 and 32 bits lose; less than 8 for
            a dataset that uses few of them.

    Returns:
        The image with one channel if it is gray (modes 1, L, LA and 16-bit), else
        three.

    Raises:
        BadImageError: empty, truncated, not an image, or larger than MAX_PIXELS.
    """
    return decode_with_info(plain_jpeg(data), data, gray_shift)


def decode_with_info(
    info: ImageInfo | None, data: bytes, gray_shift: int = GRAY_SHIFT
) -> DecodedImage:
    """Decode as `decode_checked`, given what `plain_jpeg` has returned."""
    decoded = _decode_by_turbo(data, info) if info else None
    return decoded or _decode_by_pillow(data, gray_shift)


def decode_kept(info: ImageInfo | None, data: bytes, gray_shift: int = GRAY_SHIFT) -> DecodedImage:
    """Decode as `decode_with_info` an image of a dataset that is kept at its size, as only small ones are."""
    from trainer_classification.data.plain_png import read_plain_png  # numba: only prepare needs it

    pixels = None if info else read_plain_png(data)
    if pixels is None:
        return decode_with_info(info, data, gray_shift)
    height, width, channels = pixels.shape
    kind: Literal["png", ""] = "" if _PNG_ANIMATION in data else "png"  # as `_is_plain_png` says

    return DecodedImage(ImageInfo(width, height, channels, kind, content="PNG"), pixels)


def decode_for_array(
    info: ImageInfo | None, data: bytes, side: int, gray_shift: int = GRAY_SHIFT
) -> DecodedImage | YCbCrImage | LargeJpeg:
    """Decode as `decode_for_resize`; a large JPEG only at the size that the array needs.

    Args:
        info: what `plain_jpeg` has returned.
        data: the file.
        side: of the images in the array, in px.
        gray_shift: as for `decode_checked`.

    Raises:
        BadImageError: as `decode_checked` does.
    """
    large = _open_large_jpeg(info, data, side, partial(decode_for_resize, info, data, gray_shift))
    return large or decode_for_resize(info, data, gray_shift)


def _open_large_jpeg(
    info: ImageInfo | None,
    data: bytes,
    side: int,
    decode_whole: Callable[[], DecodedImage | YCbCrImage],
) -> LargeJpeg | None:
    """Return a sound JPEG that is much larger than a square of `side`, decoded at a part of its size; else None."""
    large, turn, divisor = _read_large_jpeg(info, data, side)
    if large is None:
        return None
    image = LargeJpeg(large, data, turn, decode_whole)
    try:
        image.reduce(divisor)
    except Exception:  # simplejpeg raises several types; Pillow decides
        return None
    return image


def _read_large_jpeg(
    info: ImageInfo | None, data: bytes, side: int
) -> tuple[ImageInfo | None, int, int]:
    """Return what a JPEG much larger than a square of `side` holds, its turn, and the divisor of its size.

    The first is None where it is not so large, or decoders may not agree about it.
    """
    header = info or _read_jpeg_header(data)
    if header is None or not _shrinks_much(header.width, header.height, side, side):
        return None, UPRIGHT, 1
    turn = UPRIGHT
    if info is None:
        info, turn = _read_turned_jpeg(header, data)
    divisor = 1 if info is None else _choose_divisor(info, side, side)

    return (None, UPRIGHT, 1) if divisor == 1 else (info, turn, divisor)


def _read_turned_jpeg(header: ImageInfo, data: bytes) -> tuple[ImageInfo | None, int]:
    """Return what a JPEG that has to be turned holds, and its turn; None if decoders do not agree about that.

    Args:
        header: what the JPEG holds before it is turned.
        data: the file.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            content = image.format or ""
            orientation = read_orientation(image)
    except Exception:  # as in `_is_turned`
        return None, UPRIGHT
    if not orientation.is_plain or content not in ("JPEG", "MPO"):
        return None, UPRIGHT

    width, height = header.width, header.height
    if orientation.turn in _SIDEWAYS:
        width, height = height, width
    is_upright = orientation.turn == UPRIGHT
    info = header._replace(width=width, height=height, upright=is_upright, content=content)
    return info, orientation.turn


def estimate_bytes(data: bytes, pixels: int, side: int) -> int:
    """Return the bytes of memory that decoding an image takes at most, about.

    Args:
        data: the file.
        pixels: of the image.
        side: of the square that is all that is wanted of it; 0: other sizes are, too.
    """
    divisor = _read_large_jpeg(plain_jpeg(data), data, side)[2] if side else 1
    if divisor == 1:
        return BYTES_PER_PIXEL * pixels
    # A progressive file is held whole, as 16-bit coefficients of three planes.
    return (6 if is_progressive(data) else 0) * pixels + 3 * pixels // divisor**2


def count_pixels(data: bytes) -> int:
    """Return the pixels of an image, by its header alone; 0 where it cannot be read.

    Args:
        data: the file.
    """
    if data.startswith(png_chunks.SIGNATURE) and len(data) >= _PNG_DEPTH_OFFSET:
        width, height = struct.unpack_from(">II", data, _PNG_DEPTH_OFFSET - 8)
        return int(width * height)
    jpeg = _read_jpeg_header(data)
    if jpeg is not None:
        return jpeg.width * jpeg.height
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.width * image.height
    except Exception:  # as in `is_gray`
        return 0


def decode_for_resize(
    info: ImageInfo | None, data: bytes, gray_shift: int = GRAY_SHIFT
) -> DecodedImage | YCbCrImage:
    """Decode as `decode_with_info`, where the image is mainly wanted at other sizes."""
    decode_rgb = partial(decode_with_info, info, data, gray_shift)
    if info is None:
        return decode_rgb()
    from trainer_classification.kernels import jpeg  # numba: only prepare needs it

    sound, planes, buffer = jpeg.decode(np.frombuffer(data, np.uint8))
    return YCbCrImage(info, planes, buffer, decode_rgb) if sound else decode_rgb()


def plain_jpeg(data: bytes) -> ImageInfo | None:
    """Read the header of a JPEG without peculiarities, as nearly all are.

    Returns:
        None for anything else: Pillow has to look at it, and will say what is
        wrong.
    """
    info = _read_jpeg_header(data)
    return None if info is None or _is_turned(data) else info


def is_sound(data: bytes) -> bool:
    """Return whether all of a JPEG of the DCT can be decoded, at a third of the cost of decoding it.

    Every code of every plane is read, because only that can fail. But pixels are
    made of luma only, at an eighth of the size.
    """
    if not is_dct(data):
        return False
    try:
        simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1)
    except Exception:  # simplejpeg raises several types
        return False

    return True


def _decode_by_turbo(data: bytes, info: ImageInfo) -> DecodedImage | None:
    try:
        return DecodedImage(
            info, simplejpeg.decode_jpeg(data, "GRAY" if info.channels == 1 else "RGB")
        )
    except Exception:  # simplejpeg raises several types; Pillow decides
        return None


def _read_jpeg_header(data: bytes) -> ImageInfo | None:
    """Return what a JPEG holds if libjpeg-turbo shows its colors as they are meant."""
    if not is_dct(data):
        return None
    try:
        height, width, colors, sampling = simplejpeg.decode_jpeg_header(data)
    except Exception:  # a ValueError, and a KeyError for samplings that it has no name for
        return None
    if colors not in ("YCbCr", "Gray") or height * width > MAX_PIXELS:
        return None
    return ImageInfo(
        width,
        height,
        1 if colors == "Gray" else 3,
        "jpeg",
        subsampled=sampling not in ("444", "Gray"),
    )


def _is_turned(data: bytes) -> bool:
    """Return whether a JPEG has to be turned or mirrored for viewing, or decoders may not agree about that."""
    if not may_be_turned(data):
        return False
    try:
        with Image.open(io.BytesIO(data)) as image:
            orientation = read_orientation(image)
            return orientation.turn != UPRIGHT or not orientation.is_plain
    except Exception:  # leave it to `_decode_by_pillow`, which will say what is wrong
        return True


def _decode_by_pillow(data: bytes, gray_shift: int) -> DecodedImage:
    if not data:
        raise BadImageError("empty file")
    register_plugin(sniff(data[:SNIFFED_BYTES]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
        return _read_opened(image, data, gray_shift)
    except UnidentifiedImageError:
        raise BadImageError(_explain_unknown(data)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImageError(f"more than {MAX_PIXELS} pixels (a decompression bomb?)") from None
    except BadImageError:
        raise
    except Exception as error:  # Pillow raises whatever its parsers raise
        text = " ".join(str(error).split()) or type(error).__name__
        raise BadImageError(f"cannot be decoded: {text}") from error


def _explain_unknown(data: bytes) -> str:
    """Return why no decoder that is installed knows a file, and what to do if one would."""
    suffix = sniff(data[:SNIFFED_BYTES])
    remedy = advise(suffix)
    if not remedy:
        return "not an image of a known format"
    return f"a {suffix} file, which cannot be read here: {remedy}"


def _read_opened(image: Image.Image, data: bytes, gray_shift: int) -> DecodedImage:
    """Decode an image that Pillow has opened.

    Raises:
        BadImageError: it is too large, or of floating-point pixels.
        Exception: as Pillow does.
    """
    if image.width * image.height > MAX_PIXELS:
        raise BadImageError(f"more than {MAX_PIXELS} pixels (a decompression bomb?)")
    image.load()
    content = image.format or ""
    orientation = read_orientation(image)
    upright = content not in _FORMATS_WITH_ORIENTATION or orientation.turn == UPRIGHT
    jpeg = _read_jpeg_header(data)

    kind: Literal["jpeg", "png", ""] = ""
    if orientation.is_plain and content in ("JPEG", "MPO"):
        # Pillow tolerates damage that libjpeg-turbo warns about, and the ffcv
        # loader takes a warning for an error.
        kind = "jpeg" if jpeg and is_sound(data) else ""
    elif orientation.is_plain and content == "PNG":
        kind = "png" if _is_plain_png(image, data) else ""
    peak = int(np.asarray(image).max()) if image.mode.startswith("I") else 0

    pixels = pixels_of_image(
        image if upright else image.transpose(_TURNS[orientation.turn]), gray_shift
    )
    height, width, channels = pixels.shape
    subsampled = jpeg is not None and jpeg.subsampled

    return DecodedImage(
        ImageInfo(
            width,
            height,
            channels,
            kind,
            upright,
            content,
            subsampled,
            peak,
            _has_more_frames(image, data),
        ),
        pixels,
    )


def _has_more_frames(image: Image.Image, data: bytes) -> bool:
    """Return whether a file has several pages or frames, but for the previews that cameras put into JPEGs."""
    if image.format in ("TIFF", "PNG", "WEBP", "AVIF"):  # known since the image was opened
        return bool(getattr(image, "is_animated", False))
    if image.format != "GIF":
        return False
    try:  # it looks for a second frame, and so is asked of another one than is shown
        with Image.open(io.BytesIO(data)) as again:
            return bool(getattr(again, "is_animated", False))
    except Exception:  # the first frame is sound
        return False


def _is_plain_png(image: Image.Image, data: bytes) -> bool:
    """Return whether every decoder shows the same of a PNG."""
    plain = (
        image.mode in ("L", "RGB")
        and "transparency" not in image.info
        and data[_PNG_DEPTH_OFFSET] <= 8
    )
    return plain and _PNG_END in data and _PNG_ANIMATION not in data


def is_gray(path: str) -> bool:
    """Return whether an image is gray, by its header alone; False where it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.mode[0] in "1LI"
    except (
        Exception
    ):  # Pillow raises whatever its parsers raise; the job of this image will say why
        return False


def read_size(path: str) -> tuple[int, int] | None:
    """Return width and height in px, by the header alone; None where it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.size
    except Exception:  # as above; libjpeg-turbo opens some files that Pillow does not
        return _read_jpeg_size(path)


def _read_jpeg_size(path: str) -> tuple[int, int] | None:
    try:
        info = plain_jpeg(read_file(path))
    except OSError:
        return None
    return None if info is None else (info.width, info.height)


def pixels_of_image(image: Image.Image, gray_shift: int = 8) -> Uint8:
    """Return the pixels of a loaded image, not turned: uint8 [H, W, 1] or [H, W, 3].

    Args:
        image: loaded.
        gray_shift: bits that 16-bit gray values are shifted by.

    Raises:
        BadImageError: its pixels are floating-point numbers.
    """
    mode = image.mode
    if mode.startswith("I"):
        values = np.asarray(image)
        pixels = np.minimum(np.clip(values, 0, 0xFFFF) >> gray_shift, 255).astype(np.uint8)
        pixels[values == image.info.get("transparency", -1)] = 255  # white
    elif mode == "F":
        raise BadImageError(
            "floating-point pixels, whose range is not known: save them as 8 or 16 bits"
        )
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
        resized = _resize_by_pillow(
            pixels, side, side, Image.Resampling.HAMMING
        )  # sharper than bilinear
        return np.ascontiguousarray(resized.swapaxes(0, 1))
    from trainer_classification.kernels import resize as kernels

    return kernels.whole_x_first(pixels, side, side, _FILTER_WIDTH)


def resize_to_planes(pixels: Uint8, side: int) -> Uint8:
    """Resize a whole image to Y, Cb and Cr at 4:2:0: uint8 [H, W, C] -> as `kernels.planes.store_x_first`."""
    if _shrinks_much(pixels.shape[1], pixels.shape[0], side, side):
        pixels = _resize_by_pillow(pixels, side, side, Image.Resampling.HAMMING)
    from trainer_classification.kernels import planes

    return planes.store_x_first(*planes.from_rgb(pixels), side)


def make_thumbnail(pixels: Uint8, side: int) -> Uint8:
    """Return a small gray copy, to compare images by: uint8 [H, W, C] -> [side, side].

    Of large images only each n-th pixel is read, which is faster than resizing
    them.
    """
    step = max(1, min(pixels.shape[:2]) // (4 * side))
    sparse = pixels[::step, ::step]
    image = Image.fromarray(sparse if sparse.shape[2] == 3 else sparse[:, :, 0]).convert("L")
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


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
    unpad(out, width, height)[:] = pixels

    return out


def unpad(pixels: Uint8, width: int, height: int) -> Uint8:
    """Return the image within the padding of `pad`, as a view: uint8 [side, side, C] -> [height, width, C]."""
    top = (pixels.shape[0] - height) // 2
    left = (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]
