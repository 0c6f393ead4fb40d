"""Small PNGs are decoded without Pillow to what Pillow makes of them; all else is left to it."""

import io
import random
import zlib

import numpy as np
import pytest
from PIL import Image

from helpers import encoded, noise
from png_writer import GREY, PALETTE, RGB, RGB_ALPHA, write_png
from trainer_classification.data.decode import BadImageError, decode_checked, decode_kept
from trainer_classification.data.plain_png import read_plain_png


def draw(width, height, channels):
    """Draw what all filters are of use for: ramps, edges and noise, uint8 [H, W, C]."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([(x * (3 + c) + y * 5) % 256 + (x > y) * 40 for c in range(channels)], -1)
    return (image + np.random.default_rng(0).integers(0, 30, image.shape)).astype(np.uint8)


def filter_rows(pixels, kinds):
    """Return a PNG whose rows have these filters, in turn; by the definitions of the standard."""
    height, width, channels = pixels.shape
    values = np.zeros((height + 1, width + 1, channels), int)
    values[1:, 1:] = pixels
    rows = bytearray()
    for y in range(1, height + 1):
        kind = kinds[y % len(kinds)]
        left, above, corner = values[y, :-1], values[y - 1, 1:], values[y - 1, :-1]
        to_left, to_above, to_corner = (abs(left + above - corner - one) for one in (left, above, corner))
        paeth = np.where(to_above <= to_corner, above, corner)
        paeth = np.where((to_left <= to_above) & (to_left <= to_corner), left, paeth)
        predicted = [0 * left, left, above, (left + above) // 2, paeth][kind]
        rows += bytes([kind]) + ((values[y, 1:] - predicted) % 256).astype(np.uint8).tobytes()
    return with_rows(pixels, bytes(rows))


def with_rows(pixels, rows):
    """Return a PNG of the size of `pixels` with other filtered rows."""
    color = GREY if pixels.shape[2] == 1 else RGB
    whole = write_png(pixels.astype(np.uint16), 8, color)
    start = whole.index(b"IDAT") - 4
    return whole[:start] + chunk(b"IDAT", zlib.compress(rows)) + whole[-12:]


def chunk(kind, content):
    checksum = zlib.crc32(kind + content).to_bytes(4, "big")
    return len(content).to_bytes(4, "big") + kind + content + checksum


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kinds", [[0], [1], [2], [3], [4], [4, 3, 2, 1, 0]])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 1), (28, 28), (33, 17)])
def test_all_filters_are_undone(size, kinds, channels):
    pixels = draw(*size, channels)
    data = filter_rows(pixels, kinds)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))).reshape(pixels.shape), pixels)
    np.testing.assert_array_equal(read_plain_png(data), pixels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("level", [0, 9])
def test_what_pillow_writes_is_decoded_with_all_that_is_known_of_it(channels, level):
    pixels = draw(40, 30, channels)
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "PNG", compress_level=level)
    mine = decode_kept(None, file.getvalue())
    other = decode_checked(file.getvalue())
    assert read_plain_png(file.getvalue()) is not None
    assert mine.info == other.info
    np.testing.assert_array_equal(mine.pixels, other.pixels)


def test_pixels_in_several_chunks_are_joined():
    data = encoded(noise(3, 50, 50))
    start = data.index(b"IDAT") - 4
    packed = data[start + 8 : -16]
    pieces = [packed[:100], packed[100:101], packed[101:]]
    split = data[:start] + b"".join(chunk(b"IDAT", piece) for piece in pieces) + data[-12:]
    np.testing.assert_array_equal(read_plain_png(split), read_plain_png(data))
    assert read_plain_png(data) is not None


OTHERS = {
    "palette": write_png(np.zeros((4, 4, 1), np.uint16), 8, PALETTE, [(b"PLTE", bytes(3))]),
    "a palette without colors": write_png(np.zeros((4, 4, 1), np.uint16), 8, PALETTE),
    "transparency": write_png(np.zeros((4, 4, 4), np.uint16), 8, RGB_ALPHA),
    "a transparent color": write_png(np.zeros((4, 4, 1), np.uint16), 8, GREY, [(b"tRNS", bytes(2))]),
    "16 bits": write_png(np.zeros((4, 4, 1), np.uint16), 16, GREY),
    "4 bits": write_png(np.zeros((4, 4, 1), np.uint16), 4, GREY),
    "interlaced": write_png(np.zeros((4, 4, 3), np.uint16), 8, RGB, interlaced=True),
    "an orientation": write_png(np.zeros((4, 4, 3), np.uint16), 8, RGB, [(b"eXIf", b"II*\0\x08\0\0\0")]),
    "an animation": write_png(np.zeros((4, 4, 3), np.uint16), 8, RGB, [(b"acTL", bytes(8))]),
    "no PNG": b"GIF89a",
    "nothing": b"",
    "large": write_png(np.zeros((1024, 1024, 1), np.uint16), 8, GREY),
}


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_left_to_pillow(name):
    assert read_plain_png(OTHERS[name]) is None


@pytest.mark.parametrize("height", [512, 513])
def test_images_of_up_to_half_a_thousand_pixels_a_side_are_plain(height):
    data = write_png(np.zeros((height, 512, 1), np.uint16), 8, GREY)
    assert (read_plain_png(data) is not None) == (height == 512)


@pytest.mark.parametrize(
    "rows",
    [
        lambda rows: rows[:-1],
        lambda rows: rows + b"\0",
        lambda rows: b"\x05" + rows[1:],
        lambda rows: rows * 1000,
    ],
    ids=["too few", "too many", "unknown filter", "far too many"],
)
def test_wrong_rows_are_left_to_pillow(rows):
    pixels = draw(8, 8, 3)
    right = b"".join(b"\0" + row.tobytes() for row in pixels)
    assert read_plain_png(with_rows(pixels, right)) is not None
    assert read_plain_png(with_rows(pixels, rows(right))) is None


def test_whatever_is_damaged_has_the_verdict_and_the_pixels_of_pillow():
    """Any bit, and any end, of some files: decoding gives what Pillow gives, or its reason."""
    draws = random.Random(0)
    files = [encoded(noise(1, 9, 7)), filter_rows(draw(12, 5, 1), [4, 3])]
    for data in files:
        damaged = [data[:end] for end in range(0, len(data), 3)]
        damaged += [data + b"x", data + data]
        for _ in range(400):
            changed = bytearray(data)
            changed[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
            damaged.append(bytes(changed))
        for one in damaged:
            assert judge(decode_kept, None, one) == judge(decode_checked, one)


def judge(decode, *arguments):
    try:
        found = decode(*arguments)
    except BadImageError as error:
        return str(error)
    return found.info, found.pixels.tobytes()
