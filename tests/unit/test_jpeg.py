"""Our JPEG decoder: libjpeg's planes to the last bit, or a refusal."""

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from trainer_classification.data import decode as images
from trainer_classification.kernels import jpeg

RNG = np.random.default_rng(3)


def photograph(width, height, channels=3):
    """Smooth shapes with some noise: coefficients of every size."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 90 * np.sin(x / (5 + 3 * c) + c) * np.cos(y / (9 - 2 * c)) for c in range(channels)]
    noise = RNG.normal(0, 12, (height, width, channels))
    return np.clip(np.stack(waves, 2) + noise, 0, 255).astype(np.uint8)


def saved(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).save(file, "JPEG", **options)
    return file.getvalue()


def decoded(data):
    return jpeg.decode(np.frombuffer(data, np.uint8))


def luma(planes, buffer):
    return buffer[: planes.stride * planes.height].reshape(planes.height, -1)[:, : planes.width]


@pytest.mark.parametrize("quality", [3, 40, 90, 100])
@pytest.mark.parametrize("options", [{}, {"optimize": True}], ids=["standard", "optimized"])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", [(64, 48), (67, 51), (1, 1), (9, 130)])
def test_luma_is_that_of_libjpeg(size, subsampling, options, quality):
    data = saved(photograph(*size), quality=quality, subsampling=subsampling, **options)
    sound, planes, buffer = decoded(data)
    assert sound
    assert (planes.width, planes.height) == size
    assert np.array_equal(luma(planes, buffer), simplejpeg.decode_jpeg(data, "GRAY")[:, :, 0])


def test_chroma_is_that_of_libjpeg_where_it_is_not_subsampled():
    pixels = photograph(40, 24)
    data = saved(pixels, quality=95, subsampling="4:4:4")
    _, planes, buffer = decoded(data)
    with Image.open(io.BytesIO(data)) as image:
        image.draft("YCbCr", None)
        expected = np.asarray(image if image.mode == "YCbCr" else image.convert("YCbCr")).astype(int)
    for start, channel in ((planes.blue, 1), (planes.red, 2)):
        plane = buffer[start : start + planes.chroma_stride * planes.height].reshape(planes.height, -1)
        assert np.array_equal(plane[:, : planes.width], expected[:, :, channel])


def test_grey_has_luma_alone():
    data = saved(photograph(50, 33, 1))
    sound, planes, buffer = decoded(data)
    assert sound
    assert planes.has_chroma == 0
    assert np.array_equal(luma(planes, buffer), simplejpeg.decode_jpeg(data, "GRAY")[:, :, 0])


@pytest.mark.parametrize(
    "options",
    [{"progressive": True}, {"restart_marker_blocks": 2}, {"restart_marker_rows": 1}],
    ids=["progressive", "restarts", "restarts of rows"],
)
def test_rare_kinds_are_left_to_libjpeg(options):
    assert not decoded(saved(photograph(64, 48), **options))[0]


def test_whatever_is_cut_off_is_refused():
    data = saved(photograph(30, 20))
    assert not any(decoded(data[:end])[0] for end in range(len(data) - 1))


def test_a_table_with_runs_of_no_value_is_refused():
    """libjpeg takes each of them for the end of a block; such tables are of progressive files, or damaged."""
    data = bytearray(saved(photograph(48, 40)))
    table = data.index(b"\xff\xc4", data.index(b"\xff\xc4") + 2)  # the second one is of AC
    symbols = table + 21
    assert data[symbols] & 15
    data[symbols] = 0x20
    assert not decoded(bytes(data))[0]


def test_damage_is_never_taken_for_an_image_that_libjpeg_refuses():
    data = saved(photograph(48, 40), optimize=True)
    taken = 0
    for _ in range(3000):
        damaged = bytearray(data)
        damaged[RNG.integers(2, len(data))] ^= 1 << RNG.integers(8)
        if decoded(bytes(damaged))[0]:
            taken += 1
            simplejpeg.decode_jpeg(bytes(damaged), "GRAY")  # raises ValueError
    assert 0 < taken < 3000


def planar(data):
    return images.decode_for_resize(images.plain_jpeg(data), data)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(250, 180), (181, 259), (100, 90), (600, 400), (33, 20), (20, 300)])
def test_planes_resized_are_close_to_the_whole_image_resized(size, channels):
    data = saved(photograph(*size, channels), quality=95)
    image, original = planar(data), Image.open(io.BytesIO(data))
    assert isinstance(image, images.YCbCrImage)
    shown = np.asarray(original.resize((160, 160), Image.Resampling.BICUBIC)).reshape(160, 160, channels)
    small = image.resize_x_first(160)
    assert small.shape == (160, 160, channels)
    assert np.abs(small - shown.swapaxes(0, 1).astype(int)).mean() < 6
    width, height = size[0] * 2 // 3, size[1] * 2 // 3
    expected = np.asarray(original.resize((width, height), Image.Resampling.BILINEAR)).reshape(height, width, channels)
    assert np.abs(image.resize(width, height) - expected.astype(int)).mean() < 3


def test_what_is_sharpened_keeps_black_and_white():
    """Beside an edge a cubic runs over both ends: it must stay there, not come round."""
    pixels = np.zeros((200, 300, 3), np.uint8)
    pixels[:, 149:] = 255  # so that the filters of columns 78 and 80 reach over with their negative ends
    small = planar(saved(pixels, quality=100)).resize_x_first(160)
    assert small[:79].max() < 40
    assert small[80:].min() > 215


def test_an_image_that_shrinks_much_is_resized_by_pillow():
    data = saved(photograph(700, 40))
    expected = images.resize_x_first(images.decode(data), 160)
    assert np.array_equal(planar(data).resize_x_first(160), expected)


def test_pixels_are_there_where_they_are_wanted_after_all():
    data = saved(photograph(70, 40))
    assert np.array_equal(planar(data).pixels, images.decode(data))


def test_damage_is_for_the_decoder_that_names_it():
    with pytest.raises(images.BadImageError, match="truncated"):
        planar(saved(photograph(100, 80))[:-400])
