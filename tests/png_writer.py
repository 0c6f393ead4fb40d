"""Write PNGs that Pillow cannot: any bit depth and color type, interlaced, with any chunks."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
_CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}
# Adam7: first column, first row, and the distance of columns and rows of each pass.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk with its length and checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def write_png(
    values: npt.NDArray[np.uint16],
    depth: int,
    color: int,
    chunks: Sequence[tuple[bytes, bytes]] = (),
    interlaced: bool = False,
) -> bytes:
    """Return a PNG of values [H, W, C], each below 2 ** depth; `chunks` stand between IHDR and IDAT."""
    height, width, channels = values.shape
    assert channels == _CHANNELS[color]
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    rows = b"".join(_rows(values[y::down, x::across], depth) for x, y, across, down in passes)
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlaced))
    body = b"".join(chunk(name, content) for name, content in chunks)
    return b"".join(
        (b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", head), body, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    )


def _rows(values: npt.NDArray[np.uint16], depth: int) -> bytes:
    """Return the rows of a pass, each behind its filter type, 0."""
    if not values.size:
        return b""
    samples = values.reshape(len(values), -1)
    if depth == 16:
        packed = samples.astype(">u2").view(np.uint8)
    elif depth == 8:
        packed = samples.astype(np.uint8)
    else:
        bits = np.unpackbits(samples.astype(np.uint8)[:, :, None], axis=2)[:, :, 8 - depth :]
        packed = np.packbits(bits.reshape(len(values), -1), axis=1)
    return np.pad(packed, ((0, 0), (1, 0))).tobytes()
