"""Find how an image has to be turned for viewing, by one rule for every format and engine."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, NamedTuple

from trainer_classification.data.jpeg_segments import APP1, walk_segments

if TYPE_CHECKING:
    from PIL.Image import Image

UPRIGHT = 1
_TAG = 0x0112  # of EXIF
_TURNS = range(1, 9)  # TIFF 6.0, page 36
_SHORT = 3  # the type of TIFF that the tag should have

_EXIF = b"Exif\0\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([0-9])")


class Orientation(NamedTuple):
    """How an image has to be turned.

    Attributes:
        turn: 1 (upright) to 8, as the EXIF tag.
        is_plain: every decoder finds the same: a SHORT in EXIF, or nothing at
            all.
    """

    turn: int
    is_plain: bool


def read_orientation(image: Image) -> Orientation:
    """Return the orientation of an opened image.

    EXIF has the first word, with the tag as an integer of any type and count;
    then XMP has. What is broken or out of range turns nothing.
    """
    turn = _read_exif(image)
    if turn == 0:
        turn = _read_xmp(image)
    if turn not in _TURNS:
        turn = UPRIGHT
    return Orientation(turn, turn == _read_plainly(image.info.get("exif", b"")))


def may_be_turned(data: bytes) -> bool:
    """Return whether a JPEG has EXIF, or XMP with an orientation.

    It costs little.
    """
    for marker, start, end in walk_segments(data):
        if marker != APP1:
            continue
        if data.startswith(_EXIF, start):
            return True
        if data.startswith(_XMP, start) and data.find(b"Orientation", start, end) >= 0:
            return True
    return False


def _read_exif(image: Image) -> int:
    """Return the value of the tag; 0 if there is none."""
    try:
        value = image.getexif().get(_TAG, 0)
    except Exception:  # Pillow raises whatever its parsers raise
        return 0
    if isinstance(value, bytes | tuple):
        value = value[0] if value else 0
    return value if isinstance(value, int) else 0


def _read_xmp(image: Image) -> int:
    """Return the value of XMP; 0 if there is none."""
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    if isinstance(packet, str):
        packet = packet.encode(errors="replace")
    found = _XMP_ORIENTATION.search(packet)
    return int(found[1]) if found else 0


def _read_plainly(exif: bytes) -> int:
    """Return what the simplest reader of an EXIF block finds; 0 if readers do not agree about it."""
    if not exif:
        return UPRIGHT
    block = exif.removeprefix(_EXIF)
    order = _BYTE_ORDERS.get(block[:4])
    if order is None:
        return 0

    try:
        (at,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, at)
        for entry in range(count):
            tag, kind, values, value = struct.unpack_from(
                f"{order}HHIH", block, at + 2 + 12 * entry
            )
            if tag == _TAG:
                return int(value) if kind == _SHORT and values == 1 else 0
    except struct.error:
        return 0

    return UPRIGHT
