"""Images are classified as a run's evaluation would, in order, whatever is wrong with some of them."""

import csv
import dataclasses
import glob
import io
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from helpers import encoded, noise, photograph
from trainer_classification.augment import cpu
from trainer_classification.checkpoint.load_model import Model
from trainer_classification.data.decode import BadImageError, decode_for_resize, pad, plain_jpeg
from trainer_classification.data.folder import scan_folder
from trainer_classification.inference.image_paths import find_images
from trainer_classification.inference.output import PredictionWriter
from trainer_classification.inference.predictor import Prediction, Predictor
from trainer_classification.inference.preprocess import LoadedImage, Preprocess
from trainer_classification.models import build
from trainer_classification.models.normalize import Normalize
from trainer_classification.plan import Policy, central_boxes, identity

KEPT = Preprocess(image_size=12, channels=1, array_size=12, resized=False)
PHOTO = Preprocess(image_size=32, channels=3, array_size=40, resized=True)


class MeanBrightness(nn.Module):
    """Logits that grow with the brightness: images are told apart, and counted."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, images):
        self.batches.append(len(images))
        mean = images.mean((1, 2, 3))
        return torch.stack([1 - mean, mean, torch.zeros_like(mean)], 1) * 10


def model_of(network=None, **changed):
    about = {"image_size": 12, "channels": 1, "array_size": 12, "resized": False}
    return Model(
        network=network or MeanBrightness(),
        name="speednet",
        class_names=("dark", "bright", "never"),
        mean=(0.0,),
        std=(1.0,),
        dataset="tiny",
        source="model.pth",
        **(about | changed),
    )


def photo(seed, height=60, width=90):
    return photograph(seed, height, width)


@pytest.fixture
def files(tmp_path):
    """20 gray images, every other one bright, of which two are damaged."""
    for number in range(20):
        pixels = np.full((12, 12), 220 if number % 2 else 30, np.uint8)
        (tmp_path / f"{number:02}.png").write_bytes(encoded(pixels)[: 20 if number in (3, 17) else None])
    return [str(tmp_path / f"{number:02}.png") for number in range(20)]


def test_a_photo_is_decoded_as_prepare_does_and_seen_as_the_loaders_do(tmp_path):
    data = encoded(photo(1), "JPEG", quality=90)
    (tmp_path / "a.jpg").write_bytes(data)
    prepared = decode_for_resize(plain_jpeg(data), data).resize_x_first(40)
    seen = cpu.augment(prepared[None], np.zeros(1, np.int64), identity(1), Policy(), 32, "WHC")
    batch = PHOTO.make_batch([PHOTO.load(str(tmp_path / "a.jpg"))], torch.device("cpu"))
    assert np.array_equal(batch.numpy(), seen)


def test_a_central_square_is_what_pillow_cuts_out():
    preprocess = Preprocess(32, 3, 40, True, eval_crop=0.8)
    pixels = photo(2, 40, 40)
    image = LoadedImage(np.ascontiguousarray(pixels.swapaxes(0, 1)), 40, 40)
    batch = preprocess.make_batch([image], torch.device("cpu")).numpy()
    assert np.abs(batch[0].astype(int) - pixels[4:36, 4:36]).max() <= 1  # 80 % of 40 px are 32: nothing is resized


def test_the_square_is_central_in_the_original_whose_size_is_kept(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(photo(5, 60, 90), "JPEG"))
    image = PHOTO.load(tmp_path / "a.jpg")
    assert (image.width, image.height) == (90, 60)
    boxes = central_boxes(np.array([[90, 60]]), 1.0)
    assert np.allclose(boxes, [[15 / 90, 0, 60 / 90, 1]])


@pytest.mark.parametrize("size", [(12, 12), (7, 12), (5, 3)])
def test_small_images_are_padded_as_when_preparing(tmp_path, size):
    pixels = noise(0, *size)
    (tmp_path / "a.png").write_bytes(encoded(pixels))
    assert np.array_equal(KEPT.load(tmp_path / "a.png").pixels, pad(pixels[:, :, None], 12))


def test_a_photo_of_ones_own_fits_a_model_of_small_images(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(photo(3), "JPEG"))
    image = KEPT.load(tmp_path / "a.jpg").pixels
    assert image.shape == (12, 12, 1)
    expected = Image.fromarray(photo(3)).resize((12, 12), Image.Resampling.BILINEAR).convert("L")
    assert np.abs(image[:, :, 0].astype(int) - np.asarray(expected)).max() <= 20  # JPEG's loss


IMAGES = [
    (noise(4, 9, 9), "L"),
    (noise(4, 9, 9)[:, :, None], "L"),
    (noise(4, 9, 9, 3), "RGB"),
    (np.dstack([noise(4, 9, 9, 3), np.full((9, 9), 255, np.uint8)]), "RGB"),
    (noise(4, 9, 9).astype(np.uint16) * 256 + 7, "L"),
    (noise(4, 9, 9) > 127, "L"),
]


@pytest.mark.parametrize(("array", "mode"), IMAGES)
def test_arrays_of_any_image_are_taken_as_their_file_is(tmp_path, array, mode):
    preprocess = Preprocess(9, 1 if mode == "L" else 3, 9, False)
    Image.fromarray(array.squeeze()).save(tmp_path / "a.png")
    expected = preprocess.load(tmp_path / "a.png").pixels
    assert np.array_equal(preprocess.load(array).pixels, expected)
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(preprocess.load(image).pixels, expected)


@pytest.mark.parametrize("wrong", [np.zeros((3, 3, 7), np.uint8), np.zeros(5, np.uint8), np.zeros((0, 4), np.uint8)])
def test_what_is_no_image_is_named(wrong):
    with pytest.raises(BadImageError, match="an array of"):
        KEPT.load(wrong)


def test_the_order_is_kept_and_bad_images_have_their_reason(files):
    found = list(Predictor(model_of(), "cpu", batch_size=2, threads=3).predict(files))
    assert [prediction.source for prediction in found] == files
    bad = [number for number, prediction in enumerate(found) if prediction.error]
    assert bad == [3, 17]
    assert "cannot be" in found[3].error or "not an image" in found[3].error
    names = [prediction.class_name for number, prediction in enumerate(found) if number not in bad]
    assert names == [("dark", "bright")[number % 2] for number in range(20) if number not in bad]


def test_missing_files_are_bad_images_too(files):
    missing = files[0] + "x"
    first, second = Predictor(model_of(), "cpu").predict([missing, files[0]])
    assert first == Prediction(missing, error="cannot be read: No such file or directory")
    assert second.class_name == "dark"


def test_images_are_read_only_as_they_are_asked_for(files):
    """A list without end is classified in bounded memory."""
    asked = []

    def endless():
        while True:
            asked.append(1)
            yield files[0]

    predictions = Predictor(model_of(), "cpu", batch_size=2, threads=2).predict(endless())
    for _ in range(100):
        next(predictions)
    predictions.close()
    assert len(asked) <= 100 + 2 * 2 * 2 + 2 * 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("predict")]


def test_torch_has_its_threads_again_afterwards(files):
    before = torch.get_num_threads()
    list(Predictor(model_of(), "cpu", batch_size=2, threads=2).predict(files))
    assert torch.get_num_threads() == before
    seen = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [before]


def test_few_images_are_spread_over_the_threads_and_many_come_in_batches(files):
    network = MeanBrightness()
    list(Predictor(model_of(network), "cpu", batch_size=8, threads=4, amp="off").predict(files[4:12]))
    assert network.batches == [2, 2, 2, 2]
    network.batches.clear()
    list(Predictor(model_of(network), "cpu", batch_size=4, threads=2, amp="off").predict(files[4:17]))
    assert sorted(network.batches) == [1, 4, 4, 4]


class Constant(nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = torch.tensor([logits])

    def forward(self, images):
        return self.logits.expand(len(images), -1)


def test_of_equal_classes_the_first_is_named_and_confidences_sum_to_one(files):
    (found,) = Predictor(model_of(Constant([1.0, 2.0, 2.0])), "cpu").predict(files[:1], top_k=5)
    assert found.classes == ("bright", "never", "dark")
    assert sum(found.confidences) == pytest.approx(1)
    assert found.confidences[0] == found.confidences[1] > found.confidences[2]


def test_the_temperature_divides_the_logits(files):
    (found,) = Predictor(model_of(Constant([0.0, 2.0, -50.0]), temperature=2.0), "cpu").predict(files[:1])
    assert found.confidence == pytest.approx(1 / (1 + np.exp(-1)))


def test_a_network_that_is_broken_does_not_answer(files):
    (found,) = Predictor(model_of(Constant([0.0, float("nan"), 1.0])), "cpu").predict(files[:1])
    assert found.error == "the network's output is not a finite number"


def test_files_folders_patterns_and_a_list_are_found_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.png", "a.JPG", "note.txt", "sub/c.webp", "sub/[x].png", "two words.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    listed = io.StringIO("from list.png\r\n\nlast.png")
    assert list(find_images(["note.txt", "-"], listed)) == ["note.txt", "from list.png", "last.png"]
    assert list(find_images(["."], [])) == ["./a.JPG", "./b.png", "./two words.png", "./sub/[x].png", "./sub/c.webp"]
    assert list(find_images(["*.png"], [])) == ["b.png", "two words.png"]
    assert list(find_images(["**/*.webp"], [])) == ["sub/c.webp"]
    for pattern in ("**", "./**", "**/*.*", "s*/**", "**/sub/**/*.png", f"{tmp_path}/**/*.*"):
        expected = [path for path in sorted(glob.glob(pattern, recursive=True)) if not os.path.isdir(path)]
        assert list(find_images([pattern], [])) == expected
    assert list(find_images(["sub/[x].png"], [])) == ["sub/[x].png"]


@pytest.mark.parametrize(
    ("start", "remedy"),
    [
        (b"\0\0\0\x18ftypheic", r"a \.heic file, which cannot be read here: .*heif-convert.* install pillow-heif"),
        (b"\xff\x0a", r"a \.jxl file, which cannot be read here: .*djxl"),
        (b"<svg>", "^not an image of a known format$"),
    ],
)
def test_a_photo_that_a_plug_in_would_read_says_so(start, remedy):
    with pytest.raises(BadImageError, match=remedy):
        PHOTO.load(start + bytes(100))


def test_a_folder_is_walked_by_the_rules_of_prepare(tmp_path, monkeypatch, capsys):
    """All of them end in .png but for the one without a suffix; classified was whatever did, links 40 times over."""
    monkeypatch.chdir(tmp_path)
    photo = encoded(noise(1, 28, 28))
    hidden = (".thumbnails/a.png", "@eaDir/a.png", ".a.png", "sub/__MACOSX/a.png", "._a.png")
    for name in ("a.png", "no suffix", "sub/b.png", *hidden, "c.heic", "d.cr2", "note.txt"):
        Path("photos", name).parent.mkdir(parents=True, exist_ok=True)
        Path("photos", name).write_bytes(photo)
    for link in ("photos/self", "photos/sub/other"):
        os.symlink(tmp_path / "photos", link)
    os.mkfifo("photos/pipe.png")

    expected = ["photos/a.png", "photos/no suffix", "photos/sub/b.png"]
    assert list(find_images(["photos"], [])) == expected
    said = capsys.readouterr().err
    assert "photos: Links that lead back to a folder they lie in are left out: self, sub/other." in said
    assert "Hidden files and folders and those of tools are left out: " in said
    assert ".thumbnails" in said
    assert "1 AppleDouble files" in said
    assert "4 files that cannot be read as images are left out: 1 .cr2, 1 .heic, 1 .txt, 1 pipe or device." in said
    assert "(heif-convert x.heic x.jpg) or install pillow-heif" in said
    assert "export .cr2 files as JPEG" in said

    labeled = scan_folder(tmp_path)  # photos is a class
    assert [f"{file}" for file in labeled.files] == expected
    assert list(find_images(["photos/**/*.png"], [])) == [
        *("photos/@eaDir/a.png", "photos/a.png", "photos/pipe.png"),
        *("photos/sub/__MACOSX/a.png", "photos/sub/b.png"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["heic"], r"^The folder heic holds no images\. 2 files .* left out: 2 \.heic\. To use them: convert \.heic"),
        ([], "No images were named"),
        (["gone.png"], r"There is no file or folder gone\.png"),
        (["*.png"], r"Nothing matches \*\.png"),
        (["empty"], "The folder empty holds no images"),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_classified(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "heic").mkdir()
    for name in "ab":
        (tmp_path / "heic" / f"{name}.HEIC").write_bytes(b"")
    with pytest.raises(ValueError, match=message):
        find_images(arguments, [])


GOOD = Prediction("a,b.png", ("bright", "dark"), (0.75, 0.25))
BAD = Prediction("c.png", error="empty file")


def written(format, predictions, top_k=2):
    stream = io.TextIOWrapper(io.BytesIO())
    writer = PredictionWriter(stream, format, ["dark", "bright"], top_k)
    for prediction in predictions:
        writer.write(prediction)
    return stream.buffer.getvalue()


def test_json_lines_hold_the_path_the_class_and_the_best():
    good, bad = map(json.loads, written("json", [GOOD, BAD]).splitlines())
    top = [{"class": "bright", "confidence": 0.75}, {"class": "dark", "confidence": 0.25}]
    assert good == {"path": "a,b.png", "class": "bright", "confidence": 0.75, "top": top}
    assert bad == {"path": "c.png", "error": "empty file"}


def test_csv_has_a_header_and_a_column_for_each_place():
    rows = list(csv.DictReader(io.StringIO(written("csv", [GOOD, BAD]).decode())))
    good = {"path": "a,b.png", "class": "bright", "confidence": "0.75", "error": ""}
    assert rows[0] == good | {"class_2": "dark", "confidence_2": "0.25"}
    assert rows[1]["error"] == "empty file"
    assert rows[1].keys() == rows[0].keys()


def test_a_table_has_columns_and_no_control_characters():
    evil = Prediction("a\x1b[2J\nb.png", ("dark",), (1.0,))
    lines = written("table", [GOOD, BAD, evil]).decode().splitlines()
    assert lines[0] == "confidence  class   image"
    assert lines[1] == "     75.0%  bright  a,b.png (dark 25.0%)"
    assert lines[2] == "         -  -       c.png: empty file"
    assert lines[3] == "    100.0%  dark    a?[2J?b.png"


@pytest.mark.parametrize("format", ["table", "json", "csv"])
def test_names_that_are_no_text_can_be_written(format):
    name = os.fsdecode(b"caf\xe9.png")
    (*_, line) = written(format, [Prediction(name, ("dark",), (1.0,))], top_k=1).splitlines()
    assert (b"caf\xe9.png" in line) or json.loads(line)["path"] == name


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_normalized_to_the_bit_as_channel_by_channel(channels):
    normalize = Normalize([0.1, 0.5, 0.7][:channels], [0.2, 0.3, 0.0][:channels], torch.device("cpu"))
    images = torch.from_numpy(noise(5, 6 * 4, 5, channels).reshape(6, 4, 5, channels))
    found = normalize(images)
    assert torch.equal(found, images.permute(0, 3, 1, 2).float() * normalize.scale + normalize.offset)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_embeddings_are_what_the_last_layer_sees(files):
    network = build("resnet18", 3, 1, 12).eval()
    model = dataclasses.replace(model_of(network), name="resnet18")
    plain = list(Predictor(model, "cpu").predict(files, top_k=3))
    found = list(Predictor(model, "cpu", embeddings=True).predict(files, top_k=3))
    assert found == plain
    assert all(prediction.embedding is None for prediction in plain)
    for prediction in found:
        if prediction.error:
            assert prediction.embedding is None
            continue
        logits = network.fc(torch.from_numpy(prediction.embedding)).detach().numpy()
        assert model.class_names[logits.argmax()] == prediction.class_name
