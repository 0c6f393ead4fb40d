"""JPEG to planes of Y, Cb and Cr by libjpeg-turbo's C interface, called from compiled code.

The library is the one that FFCV's C extension is linked with. LLVM knows its functions by name, not by address, so
that compiled code can be cached on disk. FFCV itself is not imported: that takes seconds, and sets torch to one thread.
Interface: turbojpeg.h of libjpeg-turbo 2.1.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import llvmlite.binding
import numpy as np
from numba import njit, types

from trainer_classification.kernels.planes import Planes

_SUBSAMPLED = ((1, 1), (2, 1), (2, 2), (1, 1), (1, 2), (4, 1))  # across, down, of each TJSAMP
_GREY = 3  # TJSAMP_GRAY
_YCBCR, _COLOURS_GREY = 1, 2  # TJCS
UNREADABLE, OTHER_COLOURS = -1, -2  # results of `decode`


def _load() -> None:
    spec = importlib.util.find_spec("ffcv")
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    for library in (path for folder in folders for path in Path(folder).glob("_libffcv*.so")):
        llvmlite.binding.load_library_permanently(str(library))
        return
    raise ImportError("FFCV's C extension _libffcv is not installed")


_load()

_int, _address, _long = types.int32, types.uintp, types.uint64
_open = types.ExternalFunction("tjInitDecompress", _address())
_close = types.ExternalFunction("tjDestroy", _int(_address))
_header = types.ExternalFunction("tjDecompressHeader3", _int(_address, _address, _long, *[_address] * 4))
_planes = types.ExternalFunction(
    "tjDecompressToYUVPlanes", _int(_address, _address, _long, _address, _int, _address, _int, _int)
)


@njit(nogil=True, cache=True)
def open_decoder():  # type: ignore[no-untyped-def]
    """A decoder of this thread; 0: there is no memory for it."""
    return _open()


@njit(nogil=True, cache=True)
def close_decoder(decoder):  # type: ignore[no-untyped-def]
    """Free a decoder."""
    _close(decoder)


@njit(nogil=True, cache=True)
def decode(decoder, data, least_width, least_height, buffer):  # type: ignore[no-untyped-def]
    """Decode a JPEG to planes, at 1/2, 1/4 or 1/8 of its size where that is still large enough.

    Args:
        decoder: of `open_decoder`.
        data: uint8 [n], the JPEG.
        least_width, least_height: px that the whole image must keep; its own size is the most it can.
        buffer: uint8, grown where it is too small.

    Returns:
        (status, planes, buffer): 0, UNREADABLE or OTHER_COLOURS (neither YCbCr nor grey). Y starts at 0 in the buffer.
    """
    about = np.zeros(4, np.int32)  # width, height, TJSAMP, TJCS
    base, nothing = about.ctypes.data, Planes(0, 0, 0, 0, 0, 0, 1, 1, 0)
    if _header(decoder, data.ctypes.data, len(data), base, base + 4, base + 8, base + 12) != 0:
        return UNREADABLE, nothing, buffer
    width, height, sampling, colours = about[0], about[1], about[2], about[3]
    if sampling < 0 or sampling > 5 or (colours != _YCBCR and colours != _COLOURS_GREY):
        return OTHER_COLOURS, nothing, buffer
    width, height = _reduced(width, height, least_width, least_height)
    planes = _laid_out(width, height, sampling)
    need = planes.red + planes.chroma_stride * (-(-height // planes.down)) if planes.colours else planes.blue
    if len(buffer) < need:
        buffer = np.empty(need, np.uint8)
    first = buffer.ctypes.data
    addresses = np.array([first, first + planes.blue, first + planes.red], np.uint64)
    status = _planes(decoder, data.ctypes.data, len(data), addresses.ctypes.data, width, np.uint64(0), height, 0)
    return (0 if status == 0 else UNREADABLE), planes, buffer


@njit(nogil=True, cache=True)
def _reduced(width, height, least_width, least_height):  # type: ignore[no-untyped-def]
    """The smallest of 1, 1/2, 1/4 and 1/8 of a size, rounded up, that is large enough."""
    for divisor in (8, 4, 2):
        w, h = -(-width // divisor), -(-height // divisor)
        if w >= least_width and h >= least_height:
            return w, h
    return width, height


@njit(nogil=True, cache=True)
def _laid_out(width, height, sampling):  # type: ignore[no-untyped-def]
    """Planes one behind the other, luma padded to whole chroma pixels, as tjPlaneWidth and tjPlaneHeight have it."""
    across, down = _SUBSAMPLED[sampling]
    chroma_width, chroma_height = -(-width // across), -(-height // down)
    stride, rows = chroma_width * across, chroma_height * down
    blue = stride * rows
    red = blue + chroma_width * chroma_height
    return Planes(width, height, stride, chroma_width, blue, red, across, down, 0 if sampling == _GREY else 1)
