"""Make odd but valid image files, the same for each seed: what cameras, phones, editors and test suites write.

All JPEGs are of the sequential or progressive DCT with Huffman codes. Lossless and hierarchical processes, which some
libraries do not survive, are left out on purpose.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from jpeg_writer import APP1, SOF1, Layout, segment, write_jpeg
from png_writer import GREY, GREY_ALPHA, PALETTE, RGB, RGB_ALPHA, chunk, write_png

Uint8 = npt.NDArray[np.uint8]

ORIENTATION = 0x0112
# How a picture is stored that a reader has to turn: the inverse of what the orientation asks for (TIFF 6.0, page 36).
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
# TIFF's integer types: number and format.
INTEGERS = {
    "byte": (1, "B"),
    "short": (3, "H"),
    "long": (4, "I"),
    "sbyte": (6, "b"),
    "sshort": (8, "h"),
    "slong": (9, "i"),
}
SAMPLINGS = {
    "444": ((1, 1), (1, 1), (1, 1)),
    "422": ((2, 1), (1, 1), (1, 1)),
    "420": ((2, 2), (1, 1), (1, 1)),
    "440": ((1, 2), (1, 1), (1, 1)),
    "411": ((4, 1), (1, 1), (1, 1)),
    "441": ((1, 4), (1, 1), (1, 1)),
    "410": ((4, 2), (1, 1), (1, 1)),
    "444 as 2x1": ((2, 1), (2, 1), (2, 1)),
    "422 as 2x2": ((2, 2), (1, 2), (1, 2)),
    "440 as 2x2": ((2, 2), (2, 1), (2, 1)),
    "Cb and Cr differ": ((2, 2), (1, 2), (2, 1)),
    "3x1": ((3, 1), (1, 1), (1, 1)),
}


@dataclass(frozen=True)
class OddImage:
    """An image file.

    Attributes:
        name: of the file, unique.
        kind: what is odd about it.
        data: the file.
        picture: uint8 [H, W, 3], what is to be seen, upright.
        grey: it holds no colors.
        valid: False: readers may refuse it, but then all of them.
    """

    name: str
    kind: str
    data: bytes
    picture: Uint8 = field(repr=False)
    grey: bool = False
    valid: bool = True

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in px, upright."""
        return self.picture.shape[1], self.picture.shape[0]


def make_odd_images(seed: int = 0) -> list[OddImage]:
    """Return some 700 files in a fixed order; files of one kind are of several sizes."""
    maker = _Maker(np.random.default_rng(seed))
    for family in FAMILIES:
        family(maker)
    return maker.made


def picture(random: np.random.Generator, width: int, height: int) -> Uint8:
    """Return ramps and a soft spot, uint8 [H, W, 3]: smooth, and of another look in each of the eight orientations."""
    y, x = np.mgrid[0:height, 0:width]
    right = x / max(width - 1, 12)
    down = y / max(height - 1, 12)
    spot = np.exp(-8 * ((right - 0.25) ** 2 + (down - 0.2) ** 2))
    base = random.uniform(35, 60, 3)
    red = base[0] + 130 * right
    green = base[1] + 90 * down + 60 * spot
    blue = base[2] + 60 * right + 80 * down
    return np.stack([red, green, blue], axis=2).astype(np.uint8)


class _Maker:
    """Collects files; sizes are drawn so that half of a kind is smaller than 64 px."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.made: list[OddImage] = []

    def size(self) -> tuple[int, int]:
        least, most = ((8, 65), (66, 140))[len(self.made) % 2]
        width, height = self.random.integers(least, most, 2).tolist()
        return width, height

    def picture(self, grey: bool = False, size: tuple[int, int] | None = None) -> Uint8:
        pixels = picture(self.random, *(size or self.size()))
        return np.repeat(pixels[:, :, 1:2], 3, axis=2) if grey else pixels

    def add(
        self, kind: str, suffix: str, data: bytes, pixels: Uint8, grey: bool = False, *, valid: bool = True
    ) -> None:
        self.made.append(OddImage(f"{len(self.made):04d}{suffix}", kind, data, pixels, grey, valid))


def _file(pixels: Uint8 | Image.Image, kind: str, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _turned(pixels: Uint8, orientation: int) -> Uint8:
    """Return the pixels as a file of that orientation stores them."""
    if orientation == 1:
        return pixels
    return np.asarray(Image.fromarray(pixels).transpose(STORED[orientation]))


def _ycc(pixels: Uint8) -> list[Uint8]:
    planes = np.asarray(Image.fromarray(pixels).convert("YCbCr"))
    return [np.ascontiguousarray(planes[:, :, n]) for n in range(3)]


def tiff_head(orientation: int, integer: str = "short", order: str = "<", count: int = 1) -> bytes:
    """Return an EXIF block (a TIFF head with one directory) that holds the orientation alone."""
    number, letter = INTEGERS[integer]
    value = struct.pack(f"{order}{count}{letter}", *[orientation] * count)
    behind = b""
    if len(value) > 4:
        behind = value
        value = struct.pack(f"{order}I", 26)
    entry = struct.pack(f"{order}HHI", ORIENTATION, number, count) + value.ljust(4, b"\0")
    mark = b"II" if order == "<" else b"MM"
    return mark + struct.pack(f"{order}HIH", 42, 8, 1) + entry + bytes(4) + behind


def exif_segment(orientation: int, integer: str = "short", order: str = "<", count: int = 1) -> bytes:
    """Return an APP1 segment of EXIF."""
    return segment(APP1, b"Exif\0\0" + tiff_head(orientation, integer, order, count))


def xmp_packet(orientation: int, as_element: bool = False) -> bytes:
    """Return XMP that holds the orientation, as an attribute or as an element."""
    attribute = "" if as_element else f' tiff:Orientation="{orientation}"'
    element = f"<tiff:Orientation>{orientation}</tiff:Orientation>" if as_element else ""
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"{attribute}>{element}'
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def xmp_segment(orientation: int, as_element: bool = False) -> bytes:
    """Return an APP1 segment of XMP."""
    return segment(APP1, b"http://ns.adobe.com/xap/1.0/\0" + xmp_packet(orientation, as_element))


def _with(data: bytes, *segments: bytes, first: bool = True) -> bytes:
    """Return a JPEG with segments behind its SOI, or behind its APP0."""
    at = 2
    if not first and data[3] == 0xE0:
        at += 2 + struct.unpack_from(">H", data, 4)[0]
    return data[:at] + b"".join(segments) + data[at:]


def _sampled(maker: _Maker) -> None:
    plain = {"": {}, "restart": {"restart": 2}, "scans": {"one_scan": False}, "no JFIF": {"jfif": False}}
    odd: dict[str, dict[str, Any]] = {
        "fill bytes": {"fill": 2},
        "SOF1, 16-bit tables": {"frame": SOF1, "wide_tables": True},
        "Adobe YCbCr": {"jfif": False, "adobe": 1},
        "coarse, restart": {"step": 6, "restart": 1},
    }
    for sampling, factors in SAMPLINGS.items():
        for options in (plain | odd).values():
            for _ in range(2):
                size = maker.size()
                if max(factors[0]) == 4:  # chroma of some px at least, or its upsampling is all there is to see
                    size = (max(size[0], 24), max(size[1], 24))
                pixels = maker.picture(size=size)
                maker.add(f"JPEG {sampling}", ".jpg", write_jpeg(_ycc(pixels), Layout(factors, **options)), pixels)


def _by_pillow(maker: _Maker) -> None:
    for subsampling in (0, 1, 2):
        for options in (
            {"progressive": True},
            {"progressive": True, "restart_marker_rows": 1},
            {"restart_marker_blocks": 3},
            {"optimize": True, "quality": 97},
            {"quality": 15},
            {"dpi": (300, 300), "comment": b"a comment"},
        ):
            for _ in range(2):
                pixels = maker.picture()
                kind = f"JPEG by Pillow, {', '.join(options)}"
                maker.add(kind, ".jpg", _file(pixels, "JPEG", subsampling=subsampling, **options), pixels)
    for _ in range(4):
        pixels = maker.picture()
        more = Image.fromarray(255 - pixels)
        data = _file(Image.fromarray(pixels), "MPO", save_all=True, append_images=[more])
        maker.add("MPO", ".jpg", data, pixels)


def _grey(maker: _Maker) -> None:
    for factors in ((1, 1), (2, 2), (2, 1), (1, 4)):
        for options in ({}, {"restart": 2}, {"jfif": False}):
            for _ in range(2):
                pixels = maker.picture(grey=True)
                data = write_jpeg([pixels[:, :, 0].copy()], Layout((factors,), **options))  # type: ignore[arg-type]
                maker.add(f"grey JPEG {factors[0]}x{factors[1]}", ".jpg", data, pixels, grey=True)
    for options in ({}, {"progressive": True}):
        for _ in range(4):
            pixels = maker.picture(grey=True)
            maker.add("grey JPEG by Pillow", ".jpg", _file(pixels[:, :, 0], "JPEG", **options), pixels, grey=True)


def _colors(maker: _Maker) -> None:
    """CMYK is stored inverted where Adobe's segment is there, as Adobe does."""
    three = ((1, 1),) * 3
    for number in range(6):
        pixels = maker.picture()
        planes = [np.ascontiguousarray(pixels[:, :, n]) for n in range(3)]
        maker.add("RGB JPEG, Adobe", ".jpg", write_jpeg(planes, Layout(three, jfif=False, adobe=0)), pixels)
        named = Layout(three, ids=tuple(b"RGB"), jfif=False, restart=number % 3)
        maker.add("RGB JPEG, by ids", ".jpg", write_jpeg(planes, named), pixels)
        other = Layout(SAMPLINGS["420"], ids=(0, 1, 2) if number % 2 else (7, 9, 200))
        maker.add("JPEG, other ids", ".jpg", write_jpeg(_ycc(pixels), other), pixels)
    for number in range(6):
        pixels = maker.picture()
        maker.add("CMYK JPEG by Pillow", ".jpg", _file(Image.fromarray(pixels).convert("CMYK"), "JPEG"), pixels)
        black = np.full(pixels.shape[:2], 255, np.uint8)
        planes = [*(np.ascontiguousarray(pixels[:, :, n]) for n in range(3)), black]
        four = ((1, 1),) * 4
        data = write_jpeg(planes, Layout(four, jfif=False, adobe=0))
        maker.add("CMYK JPEG, Adobe", ".jpg", data, pixels)
        # Adobe stores YCCK inverted, as it does CMYK: of inverted CMY, which is RGB, the YCC.
        ycck = [*_ycc(255 - pixels), black]
        factors = four if number % 2 else ((2, 2), (1, 1), (1, 1), (2, 2))
        maker.add("YCCK JPEG", ".jpg", write_jpeg(ycck, Layout(factors, jfif=False, adobe=2)), pixels)


def _exif(maker: _Maker) -> None:
    def add(kind: str, orientation: int, *segments: bytes, first: bool = True, **options: Any) -> None:
        pixels = maker.picture()
        data = _file(_turned(pixels, orientation), "JPEG", quality=90, **options)
        maker.add(kind, ".jpg", _with(data, *segments, first=first), pixels)

    other = xmp_segment(1).replace(b"tiff:Orientation", b"tiff:Compression")
    for orientation in range(1, 9):
        for integer in INTEGERS:
            for order in "<>":
                add(f"EXIF {integer}", orientation, exif_segment(orientation, integer, order), first=order == "<")
        add("EXIF, count 2", orientation, exif_segment(orientation, count=2))
        add("EXIF in the second APP1", orientation, other, exif_segment(orientation))
        add("EXIF, progressive", orientation, exif_segment(orientation, order=">"), progressive=True)
    for orientation in (0, 9, 255):  # none of these is a turn
        pixels = maker.picture()
        maker.add("EXIF out of range", ".jpg", _with(_file(pixels, "JPEG"), exif_segment(orientation)), pixels)


def _xmp(maker: _Maker) -> None:
    without = segment(
        APP1, b"Exif\0\0" + tiff_head(1).replace(struct.pack("<H", ORIENTATION), struct.pack("<H", 0x0128), 1)
    )
    for orientation in range(2, 9):
        for as_element in (False, True):
            for first in (True, False):
                pixels = maker.picture()
                data = _file(_turned(pixels, orientation), "JPEG")
                kind = f"XMP {'element' if as_element else 'attribute'}"
                maker.add(kind, ".jpg", _with(data, xmp_segment(orientation, as_element), first=first), pixels)
        pixels = maker.picture()
        data = _file(_turned(pixels, orientation), "JPEG")
        both = _with(data, without, xmp_segment(orientation))
        maker.add("XMP beside EXIF without orientation", ".jpg", both, pixels)


def _sizes(maker: _Maker) -> None:
    for number in range(48):
        width, height = maker.random.integers(1, 71, 2) if number > 11 else (number % 4 + 1, number // 4 + 1)
        pixels = maker.picture(size=(int(width), int(height)))
        sampling = ("444", "422", "420", "440")[number % 4]
        maker.add("JPEG of 1 to 70 px", ".jpg", write_jpeg(_ycc(pixels), Layout(SAMPLINGS[sampling])), pixels)
    for size in ((300, 20), (20, 300), (257, 255), (640, 480), (1, 200), (200, 1)):
        pixels = maker.picture(size=size)
        maker.add("large or long JPEG", ".jpg", _file(pixels, "JPEG"), pixels)


def _tails(maker: _Maker) -> None:
    tails: dict[str, Callable[[bytes], bytes]] = {
        "zeros behind its end": lambda data: data + bytes(100),
        "text behind its end": lambda data: data + b"trailing text",
        "a JPEG behind its end": lambda data: data + data,
        "FF behind its end": lambda data: data + b"\xff" * 7,
        "many APP segments": lambda data: _with(data, *(segment(0xE0 + n, bytes(40)) for n in range(2, 14))),
        "comment of 60 kB": lambda data: _with(data, segment(0xFE, b"c" * 60000), first=False),
    }
    for kind, change in tails.items():
        for _ in range(3):
            pixels = maker.picture()
            maker.add(f"JPEG, {kind}", ".jpg", change(_file(pixels, "JPEG")), pixels)


def _png(maker: _Maker) -> None:
    gamma = (b"gAMA", struct.pack(">I", 45455))
    odd_gamma = (b"gAMA", struct.pack(">I", 100000))
    for interlaced in (False, True):
        for chunks in ((), (gamma,), (odd_gamma,), ((b"sRGB", b"\0"), gamma)):
            name = ", ".join([name.decode() for name, _ in chunks] + ["interlaced"] * interlaced)
            for depth in (1, 2, 4, 8, 16):
                pixels, values = _levels(maker.picture(grey=True)[:, :, :1], depth)
                data = write_png(values, depth, GREY, chunks, interlaced)
                maker.add(f"PNG grey {depth} bit", ".png", data, np.repeat(pixels, 3, axis=2), grey=True)
            for depth in (8, 16):
                pixels = maker.picture()
                wide = pixels.astype(np.uint16) * (257 if depth == 16 else 1)
                maker.add(
                    f"PNG RGB {depth} bit" + f" {name}", ".png", write_png(wide, depth, RGB, chunks, interlaced), pixels
                )
        for depth in (8, 16):
            _png_alpha(maker, depth, interlaced)
        for depth in (1, 2, 4, 8):
            _png_palette(maker, depth, interlaced)
    for _ in range(3):
        pixels = maker.picture()
        profile = _profile()
        maker.add("PNG with ICC profile", ".png", _file(pixels, "PNG", icc_profile=profile), pixels)
        pixels = maker.picture()
        maker.add("JPEG with ICC profile", ".jpg", _file(pixels, "JPEG", icc_profile=profile), pixels)
        pixels = maker.picture()
        frames = [Image.fromarray(255 - pixels)]
        data = _file(Image.fromarray(pixels), "PNG", save_all=True, append_images=frames, duration=50)
        maker.add("APNG", ".png", data, pixels)
        data = _file(Image.fromarray(pixels), "PNG", save_all=True, append_images=frames * 2, default_image=True)
        maker.add("APNG, default image is no frame", ".png", data, pixels)


def _levels(grey: Uint8, depth: int) -> tuple[Uint8, npt.NDArray[np.uint16]]:
    """Return what is seen of a PNG of that depth, uint8 [H, W, 1], and its values."""
    most = 2**depth - 1
    values = np.rint(grey.astype(float) / 255 * most).astype(np.uint16)
    return (values * (255 / most)).astype(np.uint8), values


def _over_white(pixels: Uint8, alpha: npt.NDArray[Any]) -> Uint8:
    return np.rint(255 + (pixels.astype(float) - 255) * (alpha / 255)).astype(np.uint8)


def _soft(pixels: Uint8) -> Uint8:
    """Return an opacity that rises from left to right, uint8 [H, W, 1]."""
    ramp = np.linspace(90, 255, pixels.shape[1]).astype(np.uint8)
    return np.broadcast_to(ramp[None, :, None], (*pixels.shape[:2], 1)).copy()


def _png_alpha(maker: _Maker, depth: int, interlaced: bool) -> None:
    factor = 257 if depth == 16 else 1
    for color, name in ((GREY_ALPHA, "grey"), (RGB_ALPHA, "RGB")):
        for _ in range(2):
            pixels = maker.picture(grey=color == GREY_ALPHA)
            alpha = _soft(pixels)
            values = np.dstack([pixels[:, :, :1] if color == GREY_ALPHA else pixels, alpha]).astype(np.uint16) * factor
            shown = _over_white(pixels, alpha)
            data = write_png(values, depth, color, (), interlaced)
            maker.add(f"PNG {name} with alpha, {depth} bit", ".png", data, shown, grey=color == GREY_ALPHA)
    for color in (GREY, RGB):  # one value is transparent: that of the first pixel
        pixels = maker.picture(grey=color == GREY)
        values = (pixels[:, :, :1] if color == GREY else pixels).astype(np.uint16) * factor
        shown = np.where((pixels == pixels[0, 0]).all(axis=2, keepdims=True), np.uint8(255), pixels)
        key = values[0, 0].astype(">u2").tobytes()
        data = write_png(values, depth, color, ((b"tRNS", key),), interlaced)
        maker.add(f"PNG with tRNS, {depth} bit", ".png", data, shown, grey=color == GREY)


def _png_palette(maker: _Maker, depth: int, interlaced: bool) -> None:
    count = 2**depth
    colors = np.linspace((40, 60, 200), (220, 120, 80), count).astype(np.uint8)
    for transparent in (False, True):
        grey = maker.picture(grey=True)[:, :, 0]
        index = np.clip(grey.astype(int) * count // 256, 0, count - 1).astype(np.uint16)
        alpha = np.linspace(120, 255, count).astype(np.uint8)
        chunks = [(b"PLTE", colors.tobytes())] + [(b"tRNS", alpha.tobytes())] * transparent
        shown = colors[index]
        if transparent:
            shown = _over_white(shown, alpha[index][:, :, None])
        kind = f"PNG palette {depth} bit" + (" with tRNS" if transparent else "")
        maker.add(kind, ".png", write_png(index[:, :, None], depth, PALETTE, chunks, interlaced), shown)


def _profile() -> bytes:
    from PIL import ImageCms

    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data[24:36] = bytes(12)  # when it was made
    return bytes(data)


def _png_turned(maker: _Maker) -> None:
    for orientation in range(1, 9):
        for order in "<>":
            pixels = maker.picture()
            chunks = ((b"eXIf", tiff_head(orientation, order=order)),)
            data = write_png(_turned(pixels, orientation).astype(np.uint16), 8, RGB, chunks)
            maker.add("PNG eXIf", ".png", data, pixels)
        pixels = maker.picture()
        text = b"XML:com.adobe.xmp\0\0\0\0\0" + xmp_packet(orientation)
        data = write_png(_turned(pixels, orientation).astype(np.uint16), 8, RGB, ((b"iTXt", text),))
        maker.add("PNG XMP", ".png", data, pixels)


def _others(maker: _Maker) -> None:
    def exif(orientation: int) -> bytes:
        return b"Exif\0\0" + tiff_head(orientation)

    for _ in range(4):
        pixels = maker.picture()
        image = Image.fromarray(pixels)
        maker.add("WebP", ".webp", _file(image, "WEBP", quality=90), pixels)
        maker.add("WebP lossless", ".webp", _file(image, "WEBP", lossless=True), pixels)
        maker.add(
            "WebP animated", ".webp", _file(image, "WEBP", save_all=True, append_images=[image], lossless=True), pixels
        )
        maker.add("AVIF", ".avif", _file(image, "AVIF", quality=90), pixels)
        maker.add("BMP 24 bit", ".bmp", _file(image, "BMP"), pixels)
        maker.add("PPM", ".ppm", _file(image, "PPM"), pixels)
        alpha = _soft(pixels)
        image = Image.fromarray(np.dstack([pixels, alpha]))
        shown = _over_white(pixels, alpha)
        maker.add("WebP with alpha", ".webp", _file(image, "WEBP", lossless=True, exact=True), shown)
        maker.add("AVIF with alpha", ".avif", _file(image, "AVIF", quality=95), shown)
        palette = Image.fromarray(pixels).quantize(64, dither=Image.Dither.NONE)
        shown = np.asarray(palette.convert("RGB"))
        maker.add("GIF", ".gif", _file(palette, "GIF"), shown)
        maker.add(
            "GIF animated",
            ".gif",
            _file(palette, "GIF", save_all=True, append_images=[palette.transpose(STORED[3])]),
            shown,
        )
        maker.add("BMP palette", ".bmp", _file(palette, "BMP"), shown)
        for name, kind in ((".bmp", "BMP"), (".pgm", "PPM"), (".tif", "TIFF")):
            grey = maker.picture(grey=True)
            maker.add(f"{kind} grey", name, _file(grey[:, :, 0], kind), grey, grey=True)
        wide = grey[:, :, 0].astype(np.uint16) * 257
        maker.add(
            "PGM 16 bit", ".pgm", b"P5 %d %d 65535\n" % wide.shape[::-1] + wide.astype(">u2").tobytes(), grey, True
        )
        bits = Image.fromarray(grey[:, :, 0]).point(lambda value: 255 * (value > 100), "1")
        shown = np.asarray(bits.convert("RGB"))
        maker.add("BMP 1 bit", ".bmp", _file(bits, "BMP"), shown, True)
        maker.add("PBM", ".pbm", _file(bits, "PPM"), shown, True)
    for orientation in range(1, 9):
        pixels = maker.picture()
        stored = Image.fromarray(_turned(pixels, orientation))
        maker.add("WebP EXIF", ".webp", _file(stored, "WEBP", lossless=True, exif=exif(orientation)), pixels)
        maker.add("AVIF EXIF", ".avif", _file(stored, "AVIF", quality=90, exif=exif(orientation)), pixels)
        maker.add("WebP XMP", ".webp", _file(stored, "WEBP", lossless=True, xmp=xmp_packet(orientation)), pixels)


def _tiff(maker: _Maker) -> None:
    for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        for _ in range(2):
            pixels = maker.picture()
            maker.add(f"TIFF {compression}", ".tif", _file(pixels, "TIFF", compression=compression), pixels)
    for orientation in range(1, 9):
        pixels = maker.picture()
        stored = Image.fromarray(_turned(pixels, orientation))
        maker.add("TIFF orientation", ".tiff", _file(stored, "TIFF", tiffinfo={ORIENTATION: orientation}), pixels)
    for _ in range(3):
        pixels = maker.picture()
        maker.add("TIFF CMYK", ".tif", _file(Image.fromarray(pixels).convert("CMYK"), "TIFF"), pixels)
        alpha = _soft(pixels)
        image = Image.fromarray(np.dstack([pixels, alpha]))
        maker.add("TIFF with alpha", ".tif", _file(image, "TIFF"), _over_white(pixels, alpha))
        grey = maker.picture(grey=True)
        wide = Image.fromarray(grey[:, :, 0].astype(np.uint16) * 257)
        maker.add("TIFF 16 bit", ".tif", _file(wide, "TIFF"), grey, True)


def _borderline(maker: _Maker) -> None:
    """Files that some readers take and others do not, and long ones."""
    broken = {
        "EXIF of no content": segment(APP1, b"Exif\0\0"),
        "EXIF of another byte order": segment(APP1, b"Exif\0\0XX" + tiff_head(6)[2:]),
        "EXIF that points behind its end": segment(APP1, b"Exif\0\0" + tiff_head(6)[:4] + b"\xff\xff\0\0"),
        "EXIF that is cut": segment(APP1, b"Exif\0\0" + tiff_head(6)[:14]),
        "an APP1 of two bytes": segment(APP1, b"Ex"),
        "a short APP14": segment(0xEE, b"Adobe"),
        "a short ICC profile": segment(0xE2, b"ICC_PROFILE\0"),
    }
    for kind, content in broken.items():
        for _ in range(2):
            pixels = maker.picture()
            maker.add(f"JPEG, {kind}", ".jpg", _with(_file(pixels, "JPEG"), content), pixels, valid=False)
    for _ in range(2):
        pixels = maker.picture()
        plain = write_jpeg(_ycc(pixels), Layout(SAMPLINGS["420"], jfif=False))
        maker.add("JPEG, short JFIF", ".jpg", _with(plain, segment(0xE0, b"JFIF\0\1")), pixels, valid=False)
        maker.add("JPEG without its end", ".jpg", plain[:-2], pixels, valid=False)
        maker.add("JPEG, bytes before its end", ".jpg", plain[:-2] + b"\0\0\0" + plain[-2:], pixels, valid=False)
        png = _file(pixels, "PNG")
        maker.add("PNG without its end", ".png", png[:-12], pixels, valid=False)
        maker.add("PNG, bytes behind its end", ".png", png + b"more", pixels)
        text = zlib.compress(b"text " * 600_000)
        large = write_png(pixels.astype(np.uint16), 8, RGB, ((b"zTXt", b"note\0\0" + text),))
        maker.add("PNG, 3 MB of text", ".png", large, pixels, valid=False)
        broken_exif = write_png(pixels.astype(np.uint16), 8, RGB, ((b"eXIf", b"II*\0"),))
        maker.add("PNG, eXIf that is cut", ".png", broken_exif, pixels, valid=False)
        maker.add("GIF without its end", ".gif", _file(Image.fromarray(pixels).quantize(), "GIF")[:-1],
                  np.asarray(Image.fromarray(pixels).quantize().convert("RGB")), valid=False)  # fmt: skip
        maker.add("JPEG 2000", ".jp2", _file(pixels, "JPEG2000"), pixels)
        grey = maker.picture(grey=True)
        wide = Image.fromarray(grey[:, :, 0].astype(np.int32) * 257)
        maker.add("TIFF 32 bit", ".tif", _file(wide, "TIFF"), grey, True, valid=False)
    for size in ((1500, 60), (60, 1500)):
        for kind, suffix in (("JPEG", ".jpg"), ("PNG", ".png")):
            pixels = maker.picture(size=size)
            maker.add(f"panorama, {kind}", suffix, _file(pixels, kind), pixels)
    for orientation in (3, 6):
        pixels = maker.picture()
        both = (exif_segment(orientation), xmp_segment(8))
        data = _with(_file(_turned(pixels, orientation), "JPEG"), *both)
        maker.add("EXIF and XMP differ", ".jpg", data, pixels)


def unsound_pngs(pixels: Uint8) -> dict[str, bytes]:
    """Return PNGs that Pillow shows and libpng refuses, by what is wrong with them."""
    whole = write_png(pixels.astype(np.uint16), 8, RGB)
    signature, head, body, end = whole[:8], whole[8:33], whole[33:-12], whole[-12:]
    packed = body[8:-4]
    return {
        "wrong checksum of its pixels": signature + head + body[:-4] + bytes(4) + end,
        "pixels without the last bytes": signature + head + chunk(b"IDAT", packed[:-4]) + end,
        "unknown chunk before its pixels": signature + head + chunk(b"ABCD", b"") + body + end,
        "unknown chunk behind its pixels": signature + head + body + chunk(b"ABCD", b"") + end,
        "two headers": signature + head + head + body + end,
        "header of 14 bytes": signature + chunk(b"IHDR", head[8:-4] + b"\0") + body + end,
        "unknown compression": signature + chunk(b"IHDR", head[8:18] + b"\1\0\0") + body + end,
        "end within a text": signature + head + body + chunk(b"tEXt", b"note\0" + end),
    }


def _unsound(maker: _Maker) -> None:
    for _ in range(2):
        pixels = maker.picture()
        for kind, data in unsound_pngs(pixels).items():
            maker.add(f"PNG, {kind}", ".png", data, pixels)


FAMILIES = (
    _sampled, _by_pillow, _grey, _colors, _exif, _xmp, _sizes, _tails, _png, _png_turned, _others, _tiff, _borderline,
    _unsound,
)  # fmt: skip


def _main() -> Iterator[str]:  # pragma: no cover
    """Write all files to the folder of the first argument."""
    import sys
    from pathlib import Path

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for image in make_odd_images():
        (folder / image.name).write_bytes(image.data)
        yield f"{image.name} {image.kind} {image.size[0]}x{image.size[1]}"


if __name__ == "__main__":
    print("\n".join(_main()))
