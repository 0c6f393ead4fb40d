"""Decode the plainest PNGs, as datasets of small images have them: Pillow takes several times as long to open one.

Gray or RGB of 8 bits, not interlaced, of nothing but header, pixels and end. What is
anything else, or damaged in any way, is left to Pillow, which has the last word.

https://www.w3.org/TR/png-3/
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from trainer_classification.arrays import Uint8
from trainer_classification.data.png_chunks import START
from trainer_classification.kernels.png import undo_filters

_HEADER = struct.Struct(">IIBBBBBI")  # width, height, depth, color, three methods, checksum
_AFTER_HEADER = len(START) + _HEADER.size
_CHUNK = struct.Struct(">I4s")  # bytes of the content, kind
_CHECKSUM = struct.Struct(">I")
_END = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))
_CHANNELS = {0: 1, 2: 3}  # by the type of the color
_MOST_PIXELS = 1 << 18  # of larger images Pillow's start is a small part


def read_plain_png(data: bytes) -> Uint8 | None:
    """Return the pixels of a plain and sound PNG: uint8 [H, W, 1] or [H, W, 3]; else None.

    Args:
        data: the file.
    """
    if not (data.startswith(START) and data.endswith(_END) and len(data) > _AFTER_HEADER):
        return None
    width, height, depth, color, *methods, checksum = _HEADER.unpack_from(data, len(START))
    channels = _CHANNELS.get(color, 0)
    if depth != 8 or not channels or any(methods) or not 0 < width * height <= _MOST_PIXELS:
        return None
    if zlib.crc32(memoryview(data)[12 : _AFTER_HEADER - _CHECKSUM.size]) != checksum:
        return None

    packed = _join_pixels(data)
    filtered = None if packed is None else _unpack(packed, height * (1 + width * channels))
    if filtered is None:
        return None
    pixels = np.empty((height, width * channels), np.uint8)
    rows = np.frombuffer(filtered, np.uint8).reshape(height, -1)

    return pixels.reshape(height, width, channels) if undo_filters(rows, channels, pixels) else None


def _join_pixels(data: bytes) -> bytes | None:
    """Return the content of all chunks between header and end; None if one is damaged or holds no pixels."""
    view = memoryview(data)
    end = len(data) - len(_END)
    start = _AFTER_HEADER
    pieces = []
    while start < end:
        size, kind = _CHUNK.unpack_from(data, start)
        content = start + _CHUNK.size
        after = content + size
        if kind != b"IDAT" or not size or after + _CHECKSUM.size > end:
            return None
        if zlib.crc32(view[start + 4 : after]) != _CHECKSUM.unpack_from(data, after)[0]:
            return None
        pieces.append(view[content:after])
        start = after + _CHECKSUM.size

    return b"".join(pieces)


def _unpack(packed: bytes, size: int) -> bytes | None:
    """Return what was compressed, if it is whole, sound and of this size."""
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(packed, size + 1)
    except zlib.error:
        return None
    is_whole = unpacker.eof and not unpacker.unused_data and len(content) == size

    return content if is_whole else None
