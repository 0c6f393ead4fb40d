"""Odd but valid image files: each engine shows the same picture, the right way up, or none of them takes the file."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine_views import ENGINES, Views, engine_views
from helpers import encoded, write_dataset
from odd_images import STORED, OddImage, make_odd_images
from trainer_classification.loaders.registry import ENGINES as SPECS
from trainer_classification.loaders.registry import installed

MOST = 2.0  # of 255, mean absolute difference between two engines
# The same of images of two colors: the array's are resized twice, which softens edges (docs/engines.md).
MOST_OF_TWO_LEVELS = 3.5
TWO_LEVELS = ("BMP 1 bit", "PBM", "PNG grey 1 bit", "PNG palette 1 bit")
KEPT_SIDE = 64  # px up to which images keep their size
PLAIN = ("JPEG by Pillow, dpi, comment", "grey JPEG by Pillow")

pytestmark = [
    pytest.mark.slow,
    # Pillow says so of files whose EXIF is odd; that is what they are here for.
    pytest.mark.filterwarnings("ignore::UserWarning"),
    *[
        pytest.mark.skipif(not installed(name), reason=f"{name} is not installed: {SPECS[name].install}")
        for name in ENGINES
    ],
]


@cache
def odd() -> list[OddImage]:
    """Made at first use: collecting the tests must cost nothing."""
    return make_odd_images()


def _views(folder: Path, images: list[OddImage], image_size: int, **more) -> Views:
    """Views of the images, which are the test split; a few of them are also the train split."""
    rows = [{"data": image.data, "label": "a", "split": "test", "suffix": Path(image.name).suffix} for image in images]
    plain = [image for image in images if image.kind in PLAIN]
    whole = encoded(np.full((KEPT_SIDE, KEPT_SIDE), 100, np.uint8))  # the largest of those that are kept
    rows += [{"data": image.data, "label": "b", "split": "train", "suffix": ".jpg"} for image in plain]
    rows.append({"data": whole, "label": "b", "split": "train"})
    sizes = [image.size for image in [*images, *plain]] + [(KEPT_SIDE, KEPT_SIDE)]
    rows = [row | {"width": width, "height": height} for row, (width, height) in zip(rows, sizes, strict=True)]
    dataset = write_dataset(folder / "dataset", rows, ["a", "b"], name="odd")
    views = engine_views(dataset, folder / "out", image_size, **more)
    return _renamed(views, [image.name for image in images])


def _renamed(views: Views, names: list[str]) -> Views:
    """The dataset names files by their row; give them the names of the odd images."""
    by_row = {f"{row:05d}{Path(name).suffix}": name for row, name in enumerate(names)}

    def named(values: dict) -> dict:
        return {by_row[key]: value for key, value in values.items() if key in by_row}

    return Views(
        {engine: named(values) for engine, values in views.images.items()},
        {engine: named(values) for engine, values in views.errors.items()},
        named(views.skipped),
    )


@pytest.fixture(scope="module")
def resized(tmp_path_factory):
    """All of them, as photographs are: resized for the array, JPEGs in beton and tar."""
    return odd(), _views(tmp_path_factory.mktemp("resized"), odd(), 32)


@pytest.fixture(scope="module")
def unbounded(tmp_path_factory):
    """The same with JPEGs of any size in the beton."""
    folder = tmp_path_factory.mktemp("unbounded")
    return odd(), _views(folder, odd(), 32, beton_side=-1, engines=("ffcv", "torch"))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The small ones, kept at their size and padded."""
    small = [image for image in odd() if max(image.size) <= KEPT_SIDE]
    return small, _views(tmp_path_factory.mktemp("kept"), small, KEPT_SIDE)


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """The grey ones: one channel."""
    images = [image for image in odd() if image.grey]
    return images, _views(tmp_path_factory.mktemp("grey"), images, 32)


datasets = pytest.mark.parametrize("name", ["resized", "unbounded", "kept", "grey"])


def _most(image: OddImage) -> float:
    return MOST_OF_TWO_LEVELS if image.kind in TWO_LEVELS else MOST


def _listed(found: list[tuple[OddImage, str]]) -> str:
    """Return a line for each kind: how many of its files are wrong, and the first of them."""
    kinds: dict[str, list[tuple[OddImage, str]]] = {}
    for image, text in found:
        kinds.setdefault(image.kind, []).append((image, text))
    lines = []
    for kind, files in kinds.items():
        image, text = files[0]
        lines.append(f"{kind}: {len(files)} files, as {image.name} of {image.size[0]}x{image.size[1]} px: {text}")
    return "\n".join([f"{len(found)} files of {len(kinds)} kinds:", *lines])


@datasets
def test_a_file_is_shown_by_every_engine_or_by_none(name, request):
    images, views = request.getfixturevalue(name)
    found = []
    for image in images:
        bad = [engine for engine, errors in views.errors.items() if image.name in errors]
        if bad:
            reason = views.errors[bad[0]][image.name]
            found.append((image, f"not by {', '.join(bad)}: {reason}"))
    assert not found, _listed(found)


@datasets
def test_engines_show_the_same_picture(name, request):
    images, views = request.getfixturevalue(name)
    spreads = [(image, views.spread(image.name)) for image in images]
    found = [(image, f"differ by {spread:.1f}") for image, spread in spreads if spread > _most(image)]
    assert not found, _listed(found)


@datasets
def test_engines_show_files_upright(name, request):
    images, views = request.getfixturevalue(name)
    found = []
    for image in images:
        if min(image.size) < 8:  # too few pixels to tell
            continue
        wrong = [e for e, shown in views.images.items() if image.name in shown and _turn(image, shown[image.name])]
        if wrong:
            found.append((image, f"by {', '.join(wrong)}"))
    assert not found, _listed(found)


@datasets
def test_every_valid_file_is_used(name, request):
    images, views = request.getfixturevalue(name)
    valid = [image for image in images if image.valid and image.name in views.skipped]
    found = [(image, views.skipped[image.name]) for image in valid]
    assert not found, _listed(found)


def _turn(image: OddImage, shown: np.ndarray) -> int:
    """Return 0 where the picture is upright, else how it was stored: the orientation whose picture is nearest."""
    padded = image.picture
    size = shown.shape[1], shown.shape[0]
    upright = Image.fromarray(padded)
    candidates = {0: upright} | {turn: upright.transpose(how) for turn, how in STORED.items()}
    if size[0] == KEPT_SIDE:
        candidates = {turn: _centered(picture) for turn, picture in candidates.items()}
    differences = {}
    for turn, picture in candidates.items():
        expected = np.asarray(picture.resize(size, Image.Resampling.BILINEAR)).astype(int)
        differences[turn] = np.abs(expected.mean(2) - shown.mean(2)).mean()
    return min(differences, key=differences.get)


def _centered(picture: Image.Image) -> Image.Image:
    whole = Image.new("RGB", (KEPT_SIDE, KEPT_SIDE))
    whole.paste(picture, ((KEPT_SIDE - picture.width) // 2, (KEPT_SIDE - picture.height) // 2))
    return whole


def test_the_generator_makes_the_same_files_of_a_seed_and_others_of_another():
    again = make_odd_images()
    assert [image.data for image in again] == [image.data for image in odd()]
    assert len({image.data for image in odd()}) == len(odd()) >= 600
    assert [image.data for image in make_odd_images(1)] != [image.data for image in odd()]
