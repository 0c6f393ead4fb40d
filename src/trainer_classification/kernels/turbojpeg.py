"""Decode JPEG to planes of Y, Cb and Cr with libjpeg-turbo, called from compiled code.

The library is the one that FFCV's C extension is linked with. LLVM looks its
functions up by name, not by address, so that compiled code can be cached on disk.
FFCV itself is not imported: that takes seconds, and sets torch to one thread. The
interface is that of turbojpeg.h in libjpeg-turbo 2.1.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import llvmlite.binding
import numpy as np
from numba import njit, types

from trainer_classification.kernels.planes import Planes

_SUBSAMPLING = ((1, 1), (2, 1), (2, 2), (1, 1), (1, 2), (4, 1))  # across, down, of each TJSAMP
_GRAY = 3  # TJSAMP_GRAY

# TJCS
_YCBCR = 1
_COLORSPACE_GRAY = 2

# Results of `decode`
UNREADABLE = -1
OTHER_COLOURS = -2


def _load_library() -> None:
    spec = importlib.util.find_spec("ffcv")
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    for folder in folders:
        for library in Path(folder).glob("_libffcv*.so"):
            llvmlite.binding.load_library_permanently(str(library))
            return
    raise ImportError("FFCV's C extension _libffcv is not installed")


_load_library()

_int = types.int32
_address = types.uintp
_long = types.uint64
_open = types.ExternalFunction("tjInitDecompress", _address())
_close = types.ExternalFunction("tjDestroy", _int(_address))
_read_header = types.ExternalFunction(
    "tjDecompressHeader3", _int(_address, _address, _long, *[_address] * 4)
)
_read_planes = types.ExternalFunction(
    "tjDecompressToYUVPlanes", _int(_address, _address, _long, _address, _int, _address, _int, _int)
)


@njit(nogil=True, cache=True)
def open_decoder():  # type: ignore[no-untyped-def]
    """Return a decoder for this thread, or 0 if there is no memory for it."""
    return _open()


@njit(nogil=True, cache=True)
def close_decoder(decoder):  # type: ignore[no-untyped-def]
    """Free a decoder."""
    _close(decoder)


@njit(nogil=True, cache=True)
def decode(decoder, data, least_width, least_height, buffer):  # type: ignore[no-untyped-def]
    """Decode a JPEG to planes, at 1/8, 1/4 or 1/2 of its size if that is large enough.

    Args:
        decoder: from `open_decoder`.
        data: uint8 [n], the JPEG.
        least_width: px that the whole image must keep, if it has as many.
        least_height: px that the whole image must keep, if it has as many.
        buffer: uint8; a larger one is allocated if it is too small.

    Returns:
        (status, planes, buffer). The status is 0, UNREADABLE, or OTHER_COLOURS
        for images that are neither YCbCr nor gray. Y starts at 0 in the buffer.
    """
    header = np.zeros(4, np.int32)  # width, height, TJSAMP, TJCS
    base = header.ctypes.data
    nothing = Planes(0, 0, 0, 0, 0, 0, 1, 1, 0)
    if _read_header(decoder, data.ctypes.data, len(data), base, base + 4, base + 8, base + 12) != 0:
        return UNREADABLE, nothing, buffer

    sampling = header[2]
    colorspace = header[3]
    if sampling < 0 or sampling > 5 or (colorspace != _YCBCR and colorspace != _COLORSPACE_GRAY):
        return OTHER_COLOURS, nothing, buffer

    width, height = _reduce_size(header[0], header[1], least_width, least_height)
    planes = _lay_out_planes(width, height, sampling)
    size = planes.blue
    if planes.has_chroma:
        size = planes.red + planes.chroma_stride * (-(-height // planes.down))
    if len(buffer) < size:
        buffer = np.empty(size, np.uint8)

    first = buffer.ctypes.data
    addresses = np.array([first, first + planes.blue, first + planes.red], np.uint64)
    status = _read_planes(
        decoder, data.ctypes.data, len(data), addresses.ctypes.data, width, np.uint64(0), height, 0
    )

    return (0 if status == 0 else UNREADABLE), planes, buffer


@njit(nogil=True, cache=True)
def _reduce_size(width, height, least_width, least_height):  # type: ignore[no-untyped-def]
    """Return the smallest of 1, 1/2, 1/4 and 1/8 of a size, rounded up, that is large enough."""
    for divisor in (8, 4, 2):
        w = -(-width // divisor)
        h = -(-height // divisor)
        if w >= least_width and h >= least_height:
            return w, h
    return width, height


@njit(nogil=True, cache=True)
def _lay_out_planes(width, height, sampling):  # type: ignore[no-untyped-def]
    """Return planes that follow each other, with luma padded to whole chroma pixels.

    That is the layout of tjPlaneWidth and tjPlaneHeight.
    """
    across, down = _SUBSAMPLING[sampling]
    chroma_width = -(-width // across)
    chroma_height = -(-height // down)
    stride = chroma_width * across
    rows = chroma_height * down
    blue = stride * rows
    red = blue + chroma_width * chroma_height
    has_chroma = 0 if sampling == _GRAY else 1

    return Planes(width, height, stride, chroma_width, blue, red, across, down, has_chroma)
