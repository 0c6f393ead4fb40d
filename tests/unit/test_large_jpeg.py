"""Large JPEGs are decoded at a part of their size, and judged as at full size."""

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from helpers import encoded, photograph, tree
from trainer_classification.config import PrepareConfig
from trainer_classification.data import decode
from trainer_classification.data.decode import BadImageError, LargeJpeg, decode_for_array, decode_for_resize, plain_jpeg
from trainer_classification.preparation.pipeline import prepare

SIDE = 40
RNG = np.random.default_rng(0)


def enlarged(height, width, channels=3):
    """A photograph of some megapixels, enlarged from a small one, with noise: uint8 [height, width, C]."""
    small = photograph(height, 24, 32, channels)
    image = Image.fromarray(small if channels == 3 else small[:, :, 0]).resize((width, height))
    pixels = np.asarray(image).reshape(height, width, channels)
    return np.clip(pixels + RNG.normal(0, 3, (height, width, 1)), 0, 255).astype(np.uint8)


def saved(pixels, turn=1, **options):
    exif = Image.Exif()
    exif[0x0112] = turn
    return encoded(pixels if pixels.shape[2] == 3 else pixels[:, :, 0], "JPEG", exif=exif, **options)


def opened(data, side=SIDE):
    return decode_for_array(plain_jpeg(data), data, side)


def whole(data):
    return decode_for_resize(plain_jpeg(data), data)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(701, 933), (322, 321), (640, 330), (1301, 650)])
@pytest.mark.parametrize("turn", [1, 3, 6, 7])
def test_the_image_is_that_of_its_full_size(size, channels, turn):
    data = saved(enlarged(*size, channels), turn)
    image = opened(data)
    assert isinstance(image, LargeJpeg)

    exact = whole(data)
    assert image.info == exact.info
    assert np.array_equal(image.pixels, exact.pixels)
    for small, expected in (
        (image.resize_x_first(SIDE), exact.resize_x_first(SIDE)),
        (image.resize(60, 50), exact.resize(60, 50)),
        (image.resize(300, 200), exact.resize(300, 200)),
    ):
        assert small.shape == expected.shape
        assert np.abs(small.astype(int) - expected).mean() < 2.5


@pytest.mark.parametrize(
    ("size", "divisor"), [((159, 400), 1), ((160, 164), 2), ((320, 322), 4), ((640, 900), 8), ((5000, 170), 2)]
)
def test_twice_the_size_is_left(size, divisor):
    assert decode._choose_divisor(decode.ImageInfo(*size, 3, "jpeg"), SIDE, SIDE) == divisor


def test_images_up_to_four_times_as_large_are_decoded_as_before():
    data = saved(enlarged(4 * SIDE, 4 * SIDE))
    assert isinstance(opened(data), decode.YCbCrImage)
    assert isinstance(opened(saved(enlarged(900, 3 * SIDE))), decode.YCbCrImage)


@pytest.mark.parametrize("sampling", [0, 1, 2])
def test_no_more_than_the_needed_pixels_are_made(sampling, monkeypatch):
    made = []
    decode_jpeg = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *a, **k: made.append(decode_jpeg(*a, **k)) or made[-1])
    opened(saved(enlarged(801, 1203), subsampling=sampling)).resize_x_first(SIDE)
    assert [pixels.shape for pixels in made] == [(101, 151, 3)]


def verdict(read, data):
    try:
        return read(data).info
    except BadImageError as error:
        return str(error)


@pytest.mark.parametrize("turn", [1, 6])
@pytest.mark.parametrize("progressive", [False, True])
def test_damage_is_judged_as_at_full_size(turn, progressive):
    """What is cut off anywhere, and one wrong bit anywhere, in each of many."""
    data = saved(enlarged(330, 340), turn, progressive=progressive)
    assert isinstance(opened(data), LargeJpeg)
    ends = RNG.integers(2, len(data), 40).tolist()
    damaged = [data[:end] for end in [*ends, len(data) - 1, len(data) - 2]]
    for _ in range(60):
        wrong = bytearray(data)
        wrong[RNG.integers(2, len(data))] ^= 1 << RNG.integers(8)
        damaged.append(bytes(wrong))

    verdicts = [(verdict(opened, one), verdict(whole, one)) for one in damaged]

    assert all(found == expected for found, expected in verdicts)
    assert any(isinstance(found, str) for found, _ in verdicts)


def test_a_photograph_of_12_megapixels_has_the_bytes_of_each_format_alone(tmp_path):
    """The scale of a decode depends on what the format wants, and not on the other formats."""
    photo = saved(enlarged(3000, 4000), quality=85)
    for split in ("train", "test"):
        (tmp_path / f"photos/{split}/a").mkdir(parents=True)
        (tmp_path / f"photos/{split}/b").mkdir()
        (tmp_path / f"photos/{split}/a/large.jpg").write_bytes(photo)
        (tmp_path / f"photos/{split}/a/turned.jpg").write_bytes(saved(enlarged(900, 1200), 6))
        (tmp_path / f"photos/{split}/b/small.jpg").write_bytes(saved(enlarged(300, 400)))

    def prepared(out, formats):
        options = {"validation_fraction": 0, "workers": 1, "image_size": 64}
        config = PrepareConfig(
            dataset=str(tmp_path / "photos"), prepared=str(tmp_path / out), formats=formats, **options
        )
        return tree(prepare(config).folder)

    together = prepared("all", "array,beton,tar,planes")
    for name in ("array", "beton", "tar", "planes"):
        alone = prepared(name, name)
        files = {path: data for path, data in alone.items() if path.startswith(name)}
        assert files == {path: data for path, data in together.items() if path.startswith(name)}


def test_a_progressive_jpeg_keeps_its_orientation_note():
    data = saved(enlarged(500, 700), 8, progressive=True)
    image = opened(data)
    assert isinstance(image, LargeJpeg)
    with Image.open(io.BytesIO(data)) as original:
        shown = original.transpose(Image.Transpose.ROTATE_90).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    assert np.abs(image.resize(SIDE, SIDE).astype(int) - np.asarray(shown)).mean() < 1.5
