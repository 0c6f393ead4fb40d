"""Betons: our reader and FFCV's own see what was written."""

import importlib.util
import io
import subprocess
import sys

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from helpers import encoded, noise, photograph
from trainer_classification.data.beton import JPEG, RAW, open_beton
from trainer_classification.data.decode import decode_checked
from trainer_classification.data.formats import ArrayLayout
from trainer_classification.preparation.format import SourceImage
from trainer_classification.preparation.write_beton import (
    BetonOptions,
    bounded_size,
    payload_of,
    raw_payload,
    write_beton,
)


def jpeg_payload(original, side, mode="jpg"):
    decoded = decode_checked(original)
    image = SourceImage(original, decoded.info, ArrayLayout(32, True, 3), 0, None, decoded)
    return payload_of(image, BetonOptions(mode, side))


def written(path, payloads):
    write_beton(path, payloads, np.arange(len(payloads)) * 3)
    return open_beton(path)


def test_raw_images_come_back_byte_for_byte_grey_as_rgb(tmp_path):
    images = [noise(0, 9, 7, 3), noise(1, 9, 7)[:, :, None]]
    store = written(tmp_path / "a.beton", [raw_payload(image) for image in images])
    for number, image in enumerate(images):
        shown = store.image(number).reshape(9, 7, 3)
        np.testing.assert_array_equal(shown, np.broadcast_to(image, (9, 7, 3)))
    assert store.modes.tolist() == [RAW, RAW]
    assert store.labels.tolist() == [0, 3]


def test_a_jpeg_that_fits_keeps_its_bytes_and_others_are_made_anew_within_the_bound(tmp_path):
    small, large = photograph(0, 40, 60), photograph(0, 300, 200)
    original = encoded(small, "JPEG")
    grey = encoded(small[:, :, 0], "JPEG")
    kept = jpeg_payload(original, 256)
    assert kept.data == original
    assert (kept.mode, kept.width, kept.height) == (JPEG, 60, 40)
    shrunk = jpeg_payload(encoded(large, "JPEG"), 100)
    assert (shrunk.width, shrunk.height) == (67, 100)
    assert Image.open(io.BytesIO(shrunk.data)).size == (67, 100)
    coloured = jpeg_payload(grey, 256)
    assert Image.open(io.BytesIO(coloured.data)).mode == "RGB"
    raw = jpeg_payload(encoded(large, "JPEG"), 100, "raw")
    assert (raw.mode, raw.width, raw.height, len(bytes(raw.data))) == (RAW, 67, 100, 3 * 67 * 100)


def test_what_was_no_jpeg_with_small_chroma_keeps_full_chroma():
    pixels = photograph(0, 300, 200)
    small, full = encoded(pixels, "JPEG"), encoded(pixels, "JPEG", subsampling=0)
    samplings = {data: simplejpeg.decode_jpeg_header(jpeg_payload(data, 100).data)[3] for data in (small, full)}
    assert samplings == {small: "420", full: "444"}
    assert simplejpeg.decode_jpeg_header(jpeg_payload(encoded(pixels), 0).data)[3] == "444"
    assert simplejpeg.decode_jpeg_header(jpeg_payload(encoded(pixels[:, :, 0]), 0).data)[3] == "420"


@pytest.mark.parametrize("size", [(4000, 200), (200, 4000)])
def test_the_shorter_side_of_a_panorama_keeps_enough_px_to_crop_from(size):
    options = BetonOptions("jpg", 120)
    assert min(bounded_size(*size, options)) == 40
    assert max(bounded_size(*size, options)) == 800
    assert bounded_size(4000, 1600, options) == (120, 48)
    assert bounded_size(4000, 30, options) == (4000, 30)


def test_a_rotated_jpeg_is_encoded_anew():
    image, exif = Image.fromarray(photograph(0, 40, 40)), Image.Exif()
    exif[0x0112] = 3
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif)
    assert jpeg_payload(file.getvalue(), 256).data != file.getvalue()


def test_no_image_crosses_a_page(tmp_path):
    payloads = [raw_payload(noise(i, 900, 1100, 3)) for i in range(4)]
    store = written(tmp_path / "a.beton", payloads)
    page = 1 << 22  # the least that holds 2.97 MB
    first, last = store.offsets // page, (store.offsets + store.sizes - 1) // page
    assert (first == last).all()
    assert len(set(first.tolist())) == 4


def test_the_same_images_give_the_same_bytes(tmp_path):
    for name in "ab":
        written(tmp_path / name, [raw_payload(noise(i, 5, 5, 3)) for i in range(9)])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_cut_off_or_foreign_file_is_refused(tmp_path):
    path = tmp_path / "a.beton"
    written(path, [raw_payload(noise(i, 5, 5, 3)) for i in range(9)])
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with pytest.raises(ValueError, match="cut off"):
        open_beton(path)
    path.write_bytes(b"\7" * 10_000)
    with pytest.raises(ValueError, match="no beton of version 2"):
        open_beton(path)


STOCK = """
import sys, warnings
import numpy as np
warnings.simplefilter("ignore")
from ffcv.fields.basics import IntDecoder
from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import ToTensor
pipelines = {"image": [CenterCropRGBImageDecoder((24, 24), ratio=1), ToTensor()], "label": [IntDecoder(), ToTensor()]}
loader = Loader(sys.argv[1], batch_size=3, num_workers=1, order=OrderOption.SEQUENTIAL, pipelines=pipelines)
images, labels = zip(*((i.clone().numpy(), l.clone().numpy()) for i, l in loader))
np.savez(sys.argv[2], images=np.concatenate(images), labels=np.concatenate(labels).ravel())
"""


@pytest.mark.skipif(importlib.util.find_spec("ffcv") is None, reason="FFCV is not installed (the extra `ffcv`)")
def test_stock_ffcv_reads_raw_and_jpeg(tmp_path):
    image = photograph(0, 24, 24)
    payloads = [raw_payload(image), jpeg_payload(encoded(image, "JPEG", quality=95), 256), raw_payload(image)]
    written(tmp_path / "a.beton", payloads)
    command = [sys.executable, "-c", STOCK, str(tmp_path / "a.beton"), str(tmp_path / "out.npz")]
    subprocess.run(command, check=True, capture_output=True)
    with np.load(tmp_path / "out.npz") as out:
        assert out["labels"].tolist() == [0, 3, 6]
        np.testing.assert_array_equal(out["images"][0], image)
        np.testing.assert_array_equal(out["images"][2], image)
        assert np.abs(out["images"][1].astype(int) - image).mean() < 4
