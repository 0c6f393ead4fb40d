"""Walk the segments of a JPEG before its first scan, as libjpeg does (ITU-T T.81, annex B)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

_START = b"\xff\xd8"
_LENGTH = struct.Struct(">H")
_START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9
_WITHOUT_LENGTH = frozenset(
    (0x00, 0x01, *range(0xD0, 0xD9))
)  # stuffed bytes, TEM, restarts, the start of the image

# Frames: all from 0xC0 on but DHT, JPG and DAC; DHP begins the frames of a
# hierarchical process.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xDE}
# Baseline, extended and progressive DCT, the latter two also with arithmetic
# coding.
_DCT_FRAMES = frozenset((0xC0, 0xC1, 0xC2, 0xC9, 0xCA))
_PROGRESSIVE_FRAMES = frozenset((0xC2, 0xCA))

APP1 = 0xE1


class Segment(NamedTuple):
    """A segment of a JPEG.

    Attributes:
        marker: its second byte.
        start, end: of its content, without marker and length, in bytes; the end
            may lie behind the data's.
    """

    marker: int
    start: int
    end: int


def is_jpeg(data: bytes) -> bool:
    """Return whether data begin as a JPEG does."""
    return data.startswith(_START)


def walk_segments(data: bytes) -> Iterator[Segment]:
    """Yield the segments up to the first scan.

    Bytes between segments are skipped, as libjpeg does.
    """
    position = len(_START)
    while True:
        position = data.find(b"\xff", position)
        while (
            0 <= position < len(data) and data[position] == 0xFF
        ):  # any number of these may come before a marker
            position += 1
        if not 0 < position < len(data):
            return
        marker = data[position]
        position += 1
        if marker in _WITHOUT_LENGTH:
            continue

        if marker in (_START_OF_SCAN, _END_OF_IMAGE) or position + _LENGTH.size > len(data):
            return
        end = position + _LENGTH.unpack_from(data, position)[0]
        yield Segment(marker, position + _LENGTH.size, end)
        position = end


def is_dct(data: bytes) -> bool:
    """Return whether scaled decoding is safe for a JPEG: its only frame is of a sequential or progressive DCT.

    Lossless and hierarchical processes are legal and rare. For these, scaled
    decoding by libjpeg-turbo 3.1 writes beyond its buffer.
    """
    if not is_jpeg(data):
        return False
    frames = [segment.marker for segment in walk_segments(data) if segment.marker in _FRAMES]
    return len(frames) == 1 and frames[0] in _DCT_FRAMES


def is_progressive(data: bytes) -> bool:
    """Return whether a JPEG of the DCT comes in several scans of all of it, which are collected in memory."""
    return any(segment.marker in _PROGRESSIVE_FRAMES for segment in walk_segments(data))
