"""What is FFCV's own: betons of every kind of JPEG, damage, memory, and a quick start."""

import importlib.util
import io
import shutil
import subprocess
import sys

import numpy as np
import psutil
import pytest
import simplejpeg
import torch
from PIL import Image

from helpers import write_dataset
from trainer_classification.augment import reference as oracle
from trainer_classification.config import PrepareConfig
from trainer_classification.data import beton
from trainer_classification.data.beton import JPEG, open_beton
from trainer_classification.kernels import crops
from trainer_classification.kernels.resize import axis, pixels_at
from trainer_classification.loaders.base import BatchSchedule, LoaderRequest
from trainer_classification.plan import Plan, Policy
from trainer_classification.preparation.pipeline import prepare
from trainer_classification.preparation.write_beton import Payload, raw_payload, write_beton

if importlib.util.find_spec("ffcv") is None:
    pytest.skip("FFCV is not installed (the extra `ffcv`)", allow_module_level=True)

from trainer_classification.loaders.ffcv import BetonSplit, FfcvLoader, open_ffcv

CROP = Policy(crop="resized", area=(0.1, 1.0), flip="random")
SIZE = 48
# Chroma is resized from its own small plane instead of being smoothed up to the image's size first.
TOLERANCE = 1.0
STRAY = b"some stray bytes"  # before the end of a JPEG libjpeg-turbo warns of them, and Pillow does not


def photo(height, width, seed=0):
    """A smooth picture with some detail, uint8 [H, W, 3]."""
    y, x = np.mgrid[:height, :width] / 40
    waves = [np.sin(x + seed) + np.cos(y * 1.3), np.sin(y + x), np.cos(x * 0.7 - y + seed)]
    return np.clip(128 + 55 * np.stack(waves, 2), 0, 255).astype(np.uint8)


def jpeg(pixels, sampling="420", quality=92):
    colours = "GRAY" if pixels.shape[2] == 1 else "RGB"
    content = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, colours, sampling)
    return Payload(JPEG, pixels.shape[1], pixels.shape[0], content)


def opened(path, payloads, policy=CROP, size=SIZE, channels=3, batch_size=4, threads=2):
    write_beton(path, payloads, np.arange(len(payloads)))
    store = open_beton(path)
    sizes = np.stack([store.widths, store.heights], 1).astype(np.int64)
    plan = Plan(len(payloads), 3, policy, sizes)
    files = [f"data/{number}.jpg" for number in range(len(payloads))]
    schedule = BatchSchedule(plan, len(payloads), batch_size)
    split = BetonSplit(store, files, channels, fixed_size=False)
    return FfcvLoader(split, schedule, size, torch.device("cpu"), threads), plan


def decoded(payload, channels=3):
    if payload.mode != JPEG:
        return np.asarray(payload.data).reshape(payload.height, payload.width, 3)[:, :, :channels]
    image = Image.open(io.BytesIO(payload.data)).convert("L" if channels == 1 else "RGB")
    return np.asarray(image).reshape(payload.height, payload.width, channels)


def differences(loader, plan, payloads, epoch=1, channels=3):
    """Mean absolute difference of each image from Pillow's, by sample id."""
    draws, found = plan.draws(epoch)[np.arange(plan.count)], {}
    with loader:
        for batch in loader.epoch(epoch):
            for image, sample in zip(batch.images.numpy(), batch.index.tolist(), strict=True):
                expected = oracle.resized_crop(decoded(payloads[sample], channels), draws.box[sample], image.shape[0])
                expected = expected[:, ::-1] if draws.flip[sample] else expected
                found[sample] = np.abs(image.astype(int) - expected).mean()
    return found


@pytest.mark.parametrize("sampling", ["444", "422", "420", "440", "411"])
def test_every_subsampling_shows_the_picture_that_pillow_shows(tmp_path, sampling):
    payloads = [jpeg(photo(91 + 7 * n, 133 - 9 * n, n), sampling) for n in range(8)]
    loader, plan = opened(tmp_path / "a", payloads)
    found = differences(loader, plan, payloads)
    assert len(found) == 8
    assert max(found.values()) < (2 * TOLERANCE if sampling == "411" else TOLERANCE)


def test_grey_and_raw_images_lie_beside_coloured_ones(tmp_path):
    payloads = [
        jpeg(photo(80, 90)[:, :, :1]),
        raw_payload(photo(70, 99, 1)),
        jpeg(photo(95, 60, 2)),
        jpeg(photo(50, 50)),
    ]
    found = differences(*opened(tmp_path / "a", payloads), payloads)
    assert max(found.values()) < TOLERANCE


def test_a_grey_dataset_has_one_channel(tmp_path):
    payloads = [jpeg(photo(80, 90, n)[:, :, :1]) for n in range(3)] + [raw_payload(photo(64, 70)[:, :, :1])]
    loader, plan = opened(tmp_path / "a", payloads, channels=1)
    assert max(differences(loader, plan, payloads, channels=1).values()) < TOLERANCE


@pytest.mark.parametrize("side", [120, 250, 500])
def test_a_large_image_is_decoded_smaller_and_still_shows_the_same(tmp_path, side):
    payloads = [jpeg(photo(side, side + 30, n)) for n in range(4)]
    found = differences(*opened(tmp_path / "a", payloads, Policy(crop="none")), payloads)
    assert max(found.values()) < 1.5 * TOLERANCE  # the decoder's own halving is not the triangle filter


@pytest.mark.parametrize("shape", [(300, 300), (90, 1201), (1201, 90), (1500, 1501)])
def test_a_crop_more_than_8_times_as_large_as_the_batch_is_shown_too(tmp_path, shape):
    payloads = [
        raw_payload(photo(*shape)),
        jpeg(photo(*shape)),
        jpeg(photo(*shape), "444"),
        jpeg(photo(*shape)[:, :, :1]),
    ]
    found = differences(*opened(tmp_path / "a", payloads, Policy(crop="none"), size=16), payloads)
    assert max(found.values()) < 3 * TOLERANCE  # the decoder reduces JPEGs by up to 8 before the filter does


@pytest.mark.parametrize(("height", "width"), [(67, 34), (9, 35), (35, 9), (70, 66)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_crop_that_shrinks_too_much_is_halved_to_the_means_of_neighbors(height, width, channels):
    """Of an odd side, the last column or row stays."""
    expected = np.random.default_rng(0).integers(0, 256, (height, width, channels)).astype(np.int64)
    content = expected.astype(np.uint8).reshape(-1)
    image = pixels_at(content.ctypes.data, channels * width, height, width)
    halved, down, across = crops._halve(image, channels, axis(3, height - 3, False), axis(0, width, True), 1)

    starts, lengths = [3.0, 0.0], [height - 3.0, float(width)]
    for number in (1, 0):
        while lengths[number] > crops._MAX_REDUCTION:
            pairs = [(0, 0)] * 3
            pairs[number] = (0, expected.shape[number] % 2)
            whole = np.pad(expected, pairs, "edge").swapaxes(0, number)
            expected = ((whole[::2] + whole[1::2] + 1) // 2).swapaxes(0, number)
            starts[number] /= 2
            lengths[number] /= 2
    assert (down, across) == ((starts[0], lengths[0], False), (starts[1], lengths[1], True))
    assert (halved.rows, halved.columns) == expected.shape[:2]
    rows = content.reshape(height, width * channels)[: halved.rows, : halved.columns * channels]
    assert np.array_equal(rows.reshape(expected.shape), expected)


@pytest.mark.parametrize("damage", ["cut", "flipped", "zeros", "stray"])
def test_a_damaged_jpeg_is_an_error_that_names_the_sample_and_not_a_hang(tmp_path, damage):
    payloads = [jpeg(photo(90, 120, n)) for n in range(8)]
    content = bytearray(payloads[5].data)
    if damage == "cut":
        content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    elif damage == "flipped":
        content[0] ^= 0xFF
    elif damage == "stray":
        content[-2:-2] = STRAY
    else:
        content[:] = bytes(len(content))
    payloads[5] = Payload(JPEG, 120, 90, bytes(content))
    loader, _ = opened(tmp_path / "a", payloads)
    with loader, pytest.raises(ValueError, match=r"Sample 5 \(data/5\.jpg\) cannot be used: its JPEG is"):
        list(loader.epoch(0))


def test_a_jpeg_that_only_pillow_reads_is_prepared_so_that_it_can_be_delivered(tmp_path):
    data = []
    for number in range(12):
        content = jpeg(photo(80, 100, number)).data
        content = content[:-2] + STRAY + content[-2:] if number % 3 == 0 else content
        row = {"data": content, "suffix": ".jpg", "label": "ab"[number % 2], "width": 100, "height": 80}
        data.append(row | {"split": "train" if number < 8 else "test"})
    dataset = write_dataset(tmp_path / "dataset", data, ["a", "b"])
    options = {"formats": "beton", "image_size": SIZE, "validation_fraction": 0, "workers": 1}
    made = prepare(PrepareConfig(dataset=str(dataset), prepared=str(tmp_path / "out"), **options))
    for split, first, count in (("train", 0, 8), ("test", 8, 4)):
        loader = open_ffcv(LoaderRequest(made.folder, made.manifest, split, None, 4, SIZE, torch.device("cpu")))
        seen = []
        with loader:
            for batch in loader.epoch(0):
                for image, sample in zip(batch.images.numpy(), batch.index.tolist(), strict=True):
                    shown = oracle.resized_crop(photo(80, 100, first + sample), np.array([0, 0, 1, 1]), SIZE)
                    assert np.abs(image.astype(int) - shown).mean() < 2 * TOLERANCE
                    seen.append(sample)
        assert sorted(seen) == list(range(count))


def test_a_label_that_has_changed_is_found_when_the_loader_opens(small, tmp_path):
    folder = shutil.copytree(small[0], tmp_path / "copy")
    path = folder / "beton/train.beton"
    content = bytearray(path.read_bytes())
    content[beton._FIELDS_END + beton._SAMPLE.fields["label"][1]] ^= 1
    path.write_bytes(content)
    request = LoaderRequest(folder, small[1], "train", None, 8, 20, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"train\.beton is damaged .*--force"):
        open_ffcv(request)


def test_a_jpeg_of_other_colours_is_refused_with_the_reason(tmp_path):
    file = io.BytesIO()
    Image.new("CMYK", (60, 50)).save(file, "JPEG")
    loader, _ = opened(tmp_path / "a", [Payload(JPEG, 60, 50, file.getvalue())])
    with loader, pytest.raises(ValueError, match="neither YCbCr nor gray"):
        list(loader.epoch(0))


def test_memory_holds_an_image_a_thread_and_not_a_batch_of_the_largest(tmp_path):
    """64 images, one of them of 12 megapixels: a batch of these would be 2.3 GB as RGB."""
    payloads = [jpeg(photo(80, 120, n)) for n in range(63)] + [jpeg(photo(3000, 4000), quality=60)]
    loader, _ = opened(tmp_path / "a", payloads, Policy(crop="resized", area=(0.002, 0.01)), batch_size=64)
    before = psutil.Process().memory_info().rss
    with loader:
        list(loader.epoch(0))
        grown = psutil.Process().memory_info().rss - before
    assert grown < 150e6  # 4000 x 3000 px as YCbCr 4:2:0 are 18 MB, the columns of a crop in it 1 MB


START = """
import sys, time
from pathlib import Path
import torch
threads = torch.get_num_threads()
started = time.perf_counter()
import numpy as np
from trainer_classification.data.beton import open_beton
from trainer_classification.loaders.base import BatchSchedule
from trainer_classification.loaders.ffcv import BetonSplit, FfcvLoader
from trainer_classification.plan import Plan, Policy
store = open_beton(Path(sys.argv[1]))
sizes = np.stack([store.widths, store.heights], 1).astype(np.int64)
plan = Plan(len(sizes), 0, Policy(crop="resized"), sizes)
split = BetonSplit(store, [""] * len(sizes), 3, fixed_size=False)
loader = FfcvLoader(split, BatchSchedule(plan, len(sizes), 4), 48, torch.device("cpu"), 2)
next(loader.epoch(0))
took = time.perf_counter() - started
loader.close()
assert torch.get_num_threads() == threads
assert "ffcv" not in sys.modules
from trainer_classification.kernels.crops import crops
print(took, sum(crops.stats.cache_misses.values()))
"""


def test_a_second_process_takes_its_code_from_disk_and_leaves_torch_its_threads(tmp_path):
    write_beton(tmp_path / "a", [jpeg(photo(90, 120, n)) for n in range(8)], np.arange(8))
    done = subprocess.run([sys.executable, "-c", START, str(tmp_path / "a")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[1] == "0", "compiled again: the cache on disk was not used"
