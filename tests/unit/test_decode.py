"""Every kind of image file comes out as a viewer shows it, and bad ones are named."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from helpers import encoded, noise
from jpeg_writer import Layout, write_jpeg
from odd_images import INTEGERS, exif_segment, xmp_packet, xmp_segment
from png_writer import RGB, write_png
from trainer_classification.data import decode as decode_module
from trainer_classification.data.decode import BadImageError, decode, decode_checked, pad, resize


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def with_stray_bytes(jpeg: bytes) -> bytes:
    """Damaged just before its end: more bytes than decoders read ahead, or the damage would go unseen."""
    return jpeg[:-2] + b"some stray bytes" + jpeg[-2:]


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3), ("I;16", 1)],
)
def test_every_mode_of_png_has_one_or_three_channels(mode, channels):
    image = Image.fromarray(noise(0, 9, 7, 3))
    image = Image.fromarray(noise(0, 9, 7).astype(np.uint16) << 8) if mode == "I;16" else image.convert(mode)
    pixels = decode(saved(image))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (9, 7, channels)


def test_16_bit_keeps_the_upper_8():
    values = noise(1, 5, 6)
    image = Image.fromarray(values.astype(np.uint16) << 8 | 0x7F)
    np.testing.assert_array_equal(decode(saved(image))[:, :, 0], values)


def test_cmyk_jpeg_becomes_rgb():
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    red, green, blue = decode(saved(image, "JPEG", quality=95))[4, 4].astype(int)
    assert red < 30
    assert green > 150
    assert blue > 150


def test_transparency_is_laid_over_white_and_not_over_hidden_colours():
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:, :2] = (200, 10, 20, 255)
    shown = decode(saved(Image.fromarray(pixels)))
    np.testing.assert_array_equal(shown[0, 0], (200, 10, 20))
    np.testing.assert_array_equal(shown[0, 3], (255, 255, 255))


@pytest.mark.parametrize("pixels", [(200, 10, 20), 90])
def test_a_colour_that_stands_for_transparency_is_laid_over_white(pixels):
    image = Image.new("RGB" if isinstance(pixels, tuple) else "L", (4, 4), pixels)
    image.putpixel((1, 2), (1, 2, 3) if isinstance(pixels, tuple) else 7)
    shown = decode_checked(saved(image, transparency=pixels))
    assert shown.pixels[0, 0].tolist() == [255] * shown.info.channels
    assert shown.pixels[2, 1].tolist() == ([1, 2, 3] if isinstance(pixels, tuple) else [7])
    assert shown.info.kind == ""


def test_a_16_bit_value_that_stands_for_transparency_is_white():
    values = np.array([[0x1234, 0x1235]], np.uint16)
    assert decode(saved(Image.fromarray(values), transparency=0x1234))[0, :, 0].tolist() == [255, 0x12]


@pytest.mark.parametrize(("depth", "kind"), [(8, "png"), (16, "")])
def test_a_png_of_16_bits_a_colour_is_shown_by_the_upper_8_and_does_not_count_as_plain(depth, kind):
    shown = decode_checked(png(1, 1, depth, 2, b"\0" + bytes([7, 8, 9] if depth == 8 else [7, 99, 8, 99, 9, 99])))
    assert shown.pixels[0, 0].tolist() == [7, 8, 9]
    assert shown.info.kind == kind


def test_exif_rotation_is_applied():
    image = Image.fromarray(noise(2, 4, 9, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    shown = decode(saved(image, "PNG", exif=exif))
    np.testing.assert_array_equal(shown, np.rot90(np.asarray(image), -1))


def test_an_animation_shows_its_first_frame():
    frames = [Image.fromarray(noise(i, 6, 6)) for i in range(3)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode(data)[:, :, 0].shape, (6, 6))


@pytest.mark.parametrize("shape", [(1, 30), (30, 1), (1, 1)])
def test_images_one_pixel_thin_can_be_resized_and_padded(shape):
    pixels = decode(encoded(noise(0, *shape, 3)))
    assert resize(pixels, 8, 8).shape == (8, 8, 3)
    assert pad(pixels, 32).shape == (32, 32, 3)


def test_padding_puts_the_image_in_the_middle_of_zeros():
    out = pad(np.full((2, 4, 1), 7, np.uint8), 6)
    assert out.sum() == 7 * 8
    assert (out[2:4, 1:5] == 7).all()


def png(width: int, height: int, depth: int, colours: int, rows: bytes) -> bytes:
    """A PNG whose header says this of its rows."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bomb() -> bytes:
    """A PNG of a few bytes whose header promises 40,000 x 40,000 pixels."""
    return png(40000, 40000, 8, 0, b"\0" * 100)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello, this is text", "not an image"),
        (encoded(noise(0, 40, 40, 3))[:-200], "cannot be decoded"),
        (encoded(noise(0, 40, 40, 3), "JPEG")[:-400], "cannot be decoded"),
        (bomb(), "decompression bomb"),
    ],
)
def test_bad_files_are_refused_with_the_reason(data, reason):
    with pytest.raises(BadImageError, match=reason):
        decode(data)


def test_a_jpeg_that_only_pillow_reads_does_not_count_as_plain():
    whole = encoded(noise(0, 40, 60, 3), "JPEG")
    damaged = with_stray_bytes(whole)
    np.testing.assert_array_equal(decode(damaged), np.asarray(Image.open(io.BytesIO(whole))))
    assert decode_checked(whole).info.kind == "jpeg"
    assert decode_checked(damaged).info.kind == ""


def test_a_turned_jpeg_counts_as_plain_unless_it_is_damaged():
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = encoded(noise(0, 40, 60, 3), "JPEG", exif=exif)
    assert decode_checked(whole).info.kind == "jpeg"
    assert decode_checked(with_stray_bytes(whole)).info.kind == ""


@pytest.mark.parametrize("before", [b"", b"\xff\xe2\0\x06\xff\xda\0\0", b"\xff\xfe\0\x0aExif\0\0\xff\xda", b"\xff"])
def test_a_jpeg_is_turned_wherever_its_exif_data_lies(before):
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = encoded(noise(0, 40, 60, 3), "JPEG", exif=exif)
    upright = encoded(noise(0, 40, 60, 3), "JPEG")
    at = whole.index(b"\xff\xe1")
    assert decode(whole[:at] + before + whole[at:]).shape == (60, 40, 3)
    assert decode_module.plain_jpeg(whole[:at] + before + whole[at:]) is None
    assert decode_module.plain_jpeg(upright[:2] + before + upright[2:]) == decode_module.plain_jpeg(upright)


def test_a_sound_jpeg_is_decoded_once(monkeypatch):
    decodings, real = [], decode_module.simplejpeg.decode_jpeg
    monkeypatch.setattr(decode_module.simplejpeg, "decode_jpeg", lambda *args: decodings.append(1) or real(*args))
    monkeypatch.setattr(decode_module, "_decode_by_pillow", None)
    monkeypatch.setattr(decode_module.Image, "open", None)
    decode(encoded(noise(0, 40, 60, 3), "JPEG"))
    assert len(decodings) == 1


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
def test_the_quick_check_of_a_jpeg_says_what_decoding_it_says(options):
    y, x = np.mgrid[:90, :130]
    whole = encoded(np.stack([x, y, x + y], 2).astype(np.uint8) + noise(0, 90, 130, 3) // 8, "JPEG", **options)
    rng, verdicts = np.random.default_rng(1), []
    info = decode_module.plain_jpeg(whole)
    for _ in range(300):
        data = bytearray(whole)
        for at in rng.integers(200, len(data), rng.integers(0, 3)):
            data[at] ^= 1 << rng.integers(8)
        data = bytes(data[: rng.integers(len(data) // 2, 2 * len(data))])
        verdicts.append(decode_module.is_sound(data))
        assert verdicts[-1] == (decode_module._decode_by_turbo(data, info) is not None)
    assert 20 < sum(verdicts) < 280


def with_frame(marker: int) -> bytes:
    """The head of a JPEG whose frame is of that process: a header alone, of which nothing can be decoded."""
    frame = struct.pack(">BBHBHHB9B", 0xFF, marker, 17, 8, 16, 16, 3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0)
    return b"\xff\xd8" + frame + b"\xff\xda"


@pytest.mark.parametrize("marker", [0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF, 0xDE])
def test_only_jpegs_of_the_dct_reach_scaled_decoding(marker, monkeypatch):
    """Scaled decoding of a lossless JPEG writes beyond its buffer; nothing but the header is needed to refuse it."""
    reached = []
    monkeypatch.setattr(decode_module.simplejpeg, "decode_jpeg", lambda *args, **more: reached.append(args))
    monkeypatch.setattr(decode_module.simplejpeg, "decode_jpeg_header", lambda *args: reached.append(args))
    for before in (b"", b"\xff\xe0\0\x04\xff\xc0", b"\xff\xff\xff"):
        data = with_frame(marker)
        data = data[:2] + before + data[2:]
        assert not decode_module.is_sound(data)
        assert decode_module.plain_jpeg(data) is None
    two_frames = with_frame(0xC0)[:-2] + with_frame(marker)[2:]
    assert not decode_module.is_sound(two_frames)
    assert not reached


@pytest.mark.parametrize("marker", [0xC0, 0xC1, 0xC2, 0xC9, 0xCA])
def test_every_process_of_the_dct_is_checked_by_scaled_decoding(marker, monkeypatch):
    monkeypatch.setattr(decode_module.simplejpeg, "decode_jpeg", lambda *args, **more: None)
    assert decode_module.is_sound(with_frame(marker))


def test_a_sampling_that_libjpegs_caller_has_no_name_for_is_shown():
    pixels = noise(0, 40, 24)
    planes = [pixels, np.full_like(pixels, 90), np.full_like(pixels, 170)]
    data = write_jpeg(planes, Layout(((1, 4), (1, 1), (1, 1))))
    shown = decode_checked(data)
    assert shown.pixels.shape == (40, 24, 3)
    assert shown.info.kind == ""


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_a_file_counts_by_its_content(kind):
    assert decode_checked(encoded(noise(0, 40, 60, 3), kind)).info.content == kind


@pytest.mark.parametrize("integer", INTEGERS)
def test_orientation_is_any_integer_of_exif_and_only_a_short_is_plain(integer):
    upright = noise(0, 40, 60, 3)
    data = encoded(np.rot90(upright), "JPEG", quality=95)
    turned = decode_checked(data[:2] + exif_segment(6, integer, ">") + data[2:])
    assert turned.pixels.shape == (40, 60, 3)
    assert not turned.info.upright
    assert turned.info.kind == ("jpeg" if integer == "short" else "")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("as_element", [True, False])
def test_xmp_alone_turns_an_image_of_any_format(kind, as_element):
    pixels = np.rot90(noise(0, 40, 60, 3))
    xmp = xmp_packet(6, as_element)
    if kind == "JPEG":
        data = encoded(pixels, kind)
        data = data[:2] + xmp_segment(6, as_element) + data[2:]
    elif kind == "PNG":
        text = b"XML:com.adobe.xmp\0\0\0\0\0" + xmp
        data = write_png(pixels.astype(np.uint16), 8, RGB, ((b"iTXt", text),))
    else:
        data = encoded(pixels, kind, xmp=xmp)
    shown = decode_checked(data)
    assert shown.pixels.shape == (40, 60, 3)
    assert shown.info.kind == ""


def test_avif_is_turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(np.rot90(noise(0, 40, 60, 3)), "AVIF", exif=exif)).shape == (40, 60, 3)


def test_exif_that_is_cut_turns_nothing_and_is_not_plain():
    data = write_png(noise(0, 40, 60, 3).astype(np.uint16), 8, RGB, ((b"eXIf", b"II*\0"),))
    shown = decode_checked(data)
    assert shown.pixels.shape == (40, 60, 3)
    assert shown.info.kind == ""


def test_a_png_that_other_decoders_animate_or_refuse_is_not_plain():
    pixels = noise(0, 40, 60, 3)
    whole = encoded(pixels)
    frames = [Image.fromarray(pixels)]
    animated = encoded(pixels, "PNG", save_all=True, append_images=frames, default_image=True)
    assert decode_checked(whole).info.kind == "png"
    for data in (whole[:-12], animated):
        shown = decode_checked(data)
        np.testing.assert_array_equal(shown.pixels, pixels)
        assert shown.info.kind == ""


@pytest.mark.parametrize(
    ("options", "subsampled"), [({}, True), ({"subsampling": 0}, False), ({"progressive": True}, True)]
)
def test_the_chroma_of_a_jpeg_is_known(options, subsampled):
    assert decode_checked(encoded(noise(0, 40, 60, 3), "JPEG", **options)).info.subsampled == subsampled


def test_the_largest_value_of_16_bits_is_known():
    values = np.full((5, 6), 255, np.uint16)
    assert decode_checked(saved(Image.fromarray(values))).info.peak == 255
    assert decode_checked(saved(Image.fromarray(values.astype(np.uint8)))).info.peak == 0


def test_the_size_of_a_jpeg_that_pillow_does_not_open_is_known(tmp_path):
    data = encoded(noise(0, 40, 60, 3), "JPEG")
    short = data[:2] + b"\xff\xe0\0\x08JFIF\0\1" + data[2 + 2 + 16 :]
    (tmp_path / "a.jpg").write_bytes(short)
    assert decode(short).shape == (40, 60, 3)
    assert decode_module.read_size(str(tmp_path / "a.jpg")) == (60, 40)
    assert decode_module.read_size(str(tmp_path / "none.jpg")) is None
