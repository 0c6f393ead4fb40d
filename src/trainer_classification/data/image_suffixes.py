"""Tell image files from others by suffix, or by the first bytes where a name has none."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import import_module
from importlib.util import find_spec

# What Pillow decodes without a program or a plug-in beside it. Left out are
# formats that it only identifies (.mpg, .h5) and text, vector or floating-point
# formats.
_PILLOW = (
    "jpg jpeg jpe jfif jif jfi pjpeg pjp mpo png apng webp avif avifs gif bmp dib tif tiff jp2 j2k j2c jpc jpf jpx "
    "ppm pgm pbm pnm tga icb vda vst ico icns cur pcx dcx qoi dds sgi rgb rgba bw ras psd im msp xbm xpm"
)
PILLOW_SUFFIXES = frozenset(f".{name}" for name in _PILLOW.split())

# Suffix -> Pillow plug-in that reads it, and a command that converts it.
_HEIF = ("pillow_heif", "heif-convert x.heic x.jpg")
_JPEG_XL = ("pillow_jxl", "djxl x.jxl x.png")
PLUGINS = {
    ".heic": _HEIF,
    ".heif": _HEIF,
    ".hif": _HEIF,
    ".heics": _HEIF,
    ".heifs": _HEIF,
    ".jxl": _JPEG_XL,
}
_PACKAGES = {"pillow_heif": "pillow-heif", "pillow_jxl": "pillow-jxl-plugin"}

# Photos that neither Pillow nor a plug-in reads: a class of nothing else must not
# vanish without a word.
_CAMERA = "cr2 cr3 nef nrw arw sr2 dng orf rw2 raf pef srw raw"
CAMERA_SUFFIXES = frozenset(f".{name}" for name in _CAMERA.split())

# Formats whose names are often mixed up, by Pillow's name, with their suffixes.
_NAMED_AS = {
    "JPEG": "jpg jpeg jpe jfif jif jfi pjpeg pjp mpo",
    "PNG": "png apng",
    "WEBP": "webp",
    "AVIF": "avif avifs",
    "GIF": "gif",
    "BMP": "bmp dib",
    "TIFF": "tif tiff",
    "JPEG2000": "jp2 j2k j2c jpc jpf jpx",
}
_CONTENT_OF_SUFFIX = {
    f".{name}": content for content, names in _NAMED_AS.items() for name in names.split()
}
_SAME_CONTENT = {"MPO": "JPEG", "DIB": "BMP"}

SNIFFED_BYTES = 32
_STARTS = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",
    b"MM\0*",
    b"\0\0\0\x0cjP  \r\n",
    b"\xff\x4f\xff\x51",
    b"qoif",
    b"8BPS",
)
_BRANDS = {
    b"avif": ".avif",
    b"avis": ".avif",
}  # of ISO files; all other images in this container are HEIF
_BRANDS |= dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), ".heic"
)


@cache
def image_suffixes() -> frozenset[str]:
    """Return the lower-case suffixes, with their dot, of the files that can be decoded here."""
    return PILLOW_SUFFIXES | {
        suffix for suffix, (module, _) in PLUGINS.items() if find_spec(module) is not None
    }


def suffix_of(name: str) -> str:
    """Return a file's suffix with its dot in lower case; empty where there is none, or digits only (x.0001)."""
    stem, dot, suffix = name.rpartition(".")
    if not stem or not dot or not suffix or suffix.isdigit():
        return ""

    return f".{suffix.lower()}"


def is_misnamed(name: str, content: str) -> bool:
    """Return whether a file's name says another format than it holds.

    Args:
        name: of the file.
        content: Pillow's name of the format that it holds.
    """
    return _CONTENT_OF_SUFFIX.get(suffix_of(name), content) != _SAME_CONTENT.get(content, content)


def sniff(data: bytes) -> str:
    """Return the suffix that fits the first bytes of a file.

    Args:
        data: the first SNIFFED_BYTES bytes of a file without a suffix.

    Returns:
        ".avif", ".heic" or ".jxl" where the bytes say so, ".png" for any other
        image, "" for what is no image.
    """
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "")
    if data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return ".jxl"

    is_webp = data.startswith(b"RIFF") and data[8:12] == b"WEBP"
    is_bitmap = data.startswith(b"BM") and data[6:10] == bytes(4)
    is_pnm = data[:1] == b"P" and data[1:2] in b"123456" and data[2:3].isspace()

    return ".png" if is_webp or is_bitmap or is_pnm or data.startswith(_STARTS) else ""


@cache
def register_plugin(suffix: str) -> None:
    """Make Pillow read files of this suffix where an installed plug-in does; otherwise do nothing.

    Args:
        suffix: with its dot, in lower case.
    """
    module = PLUGINS.get(suffix, ("", ""))[0]
    if not module or find_spec(module) is None:
        return

    plugin = import_module(module)  # pillow_jxl registers itself
    if hasattr(plugin, "register_heif_opener"):
        plugin.register_heif_opener()


def register_plugins(files: Iterable[str]) -> None:
    """Make Pillow read all of these files where an installed plug-in does.

    Args:
        files: paths or names.
    """
    for suffix in {suffix_of(file) for file in files if file.lower().endswith(tuple(PLUGINS))}:
        register_plugin(suffix)


def advise(suffix: str) -> str:
    """Return how files of a suffix that is left out can be used after all, or an empty string."""
    if suffix in PLUGINS:
        module, command = PLUGINS[suffix]
        return f"convert {suffix} files ({command}) or install {_PACKAGES[module]}"
    if suffix in CAMERA_SUFFIXES:
        return f"export {suffix} files as JPEG with a raw converter"

    return ""
