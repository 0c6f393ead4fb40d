"""The report says what the run came to, shows what the numbers are worth, and stays small for any number of classes."""

import base64
import dataclasses
import hashlib
import io
import json
import re
import tracemalloc
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from helpers import noise
from trainer_classification.data.manifest import Manifest, SplitInfo
from trainer_classification.metrics.calibration import bin_confidences
from trainer_classification.metrics.classification import measure_classes
from trainer_classification.metrics.confusion import ConfusionPairs, list_cells
from trainer_classification.outputs.confusion_picture import draw_confusion
from trainer_classification.outputs.report import Gallery, ReportContent, ShownImage, render_report
from trainer_classification.outputs.report_tables import class_rows, confused_pairs, describe_cells, make_matrix
from trainer_classification.outputs.summary import REQUIRED
from trainer_classification.outputs.thumbnails import Thumbnails

NAMES = ["cat", "<script>alert(1)</script>", "absent"]
CONFUSION = list_cells(np.array([[8, 2, 0], [0, 5, 5], [0, 0, 0]]))


def manifest_of(class_names, train_counts, test_counts):
    return Manifest(
        dataset="tiny <b>",
        version="1.0.0",
        task="t",
        root="/data",
        formats={},
        class_names=list(class_names),
        splits={
            "train": SplitInfo(sum(train_counts), "dataset", list(train_counts)),
            "test": SplitInfo(sum(test_counts), "cut, 20% of train", list(test_counts)),
        },
        channels=1,
        image_size=28,
        train_size=28,
        resized=False,
        layout="HWC",
        mean=[0.5],
        std=[0.2],
        files={},
        skipped=[{"file": "a.png", "split": "train", "reason": "empty file"}],
        unlabelled=0,
        duplicates=[],
        options={},
        fingerprint="f",
    )


def content_of(class_names=NAMES, confusion=CONFUSION, **more):
    measured = {
        "accuracy_test": 0.65,
        "balanced_accuracy_test": 0.65,
        "seconds_total": 10.0,
        "seconds_first_step": 2.0,
        "seconds_training": 4.0,
        "images_per_second": 1234.5,
        "data_wait_fraction": 0.25,
        "epochs": 2,
        "best_epoch": 1,
        "calibration_error_test_before": 0.2,
        "calibration_error_test_after": 0.01,
        "temperature": 1.5,
    }
    history = [
        {"epoch": number, "loss_train": 1 / number, "accuracy_train": 0.5, "learning_rate": 0.1} for number in (1, 2)
    ]
    counts = [10] * len(class_names)
    values = {
        "manifest": manifest_of(class_names, counts, counts),
        "configuration": {"recipe_model": "m", "recipe_image_size": 28, "name": "a<i>"},
        "history": history,
        "summary": dict.fromkeys(REQUIRED) | measured,
        "confusion": confusion,
    }
    return ReportContent(**values | more)


def many_classes(count, images, seed=0):
    """Pairs of that many images, of which two of three are right, and names of 60 letters."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, count, images)
    predictions = np.where(random.random(images) < 0.67, labels, random.integers(0, count, images))
    cells, counts = np.unique(labels * count + predictions, return_counts=True)
    names = [f"class {number:05d} {'x' * 48}" for number in range(count)]
    return names, ConfusionPairs((count, count), cells // count, cells % count, counts)


class Outline(HTMLParser):
    """Elements and attributes of a page, as a browser would make them."""

    def __init__(self, page):
        super().__init__()
        self.elements = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def count(self, tag):
        return sum(name == tag for name, _ in self.elements)


def test_the_lowest_f1_comes_first_and_absent_classes_are_left_out():
    rows = class_rows(CONFUSION, NAMES, [10, 20, 3])
    assert [(row.name, row.train, row.test, row.recall) for row in rows] == [
        (NAMES[1], 20, 10, 0.5),
        ("cat", 10, 10, 0.8),
    ]
    assert rows[0].precision == pytest.approx(5 / 7)
    assert rows[0].f1 == pytest.approx(10 / 17)
    assert (rows[0].low, rows[0].high) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def test_mistakes_come_most_frequent_first():
    assert [(pair.label, pair.predicted, pair.count, pair.share) for pair in confused_pairs(CONFUSION, NAMES)] == [
        (NAMES[1], "absent", 5, 0.5),
        ("cat", NAMES[1], 2, 0.2),
    ]


def test_pairs_say_what_the_matrix_says():
    random = np.random.default_rng(0)
    matrix = random.integers(0, 3, (700, 700)) * (random.random((700, 700)) < 0.01)
    pairs = list_cells(matrix)
    found = measure_classes(pairs)
    assert pairs.sum() == matrix.sum()
    assert found.support.tolist() == matrix.sum(1).tolist()
    assert found.predicted.tolist() == matrix.sum(0).tolist()
    assert found.correct.tolist() == matrix.diagonal().tolist()
    chosen = [699, 3, 256]
    assert pairs.matrix_of(chosen).tolist() == matrix[np.ix_(chosen, chosen)].tolist()


def test_the_matrix_of_few_classes_is_whole_and_that_of_many_has_the_confused_ones():
    whole = make_matrix(CONFUSION, NAMES)
    assert whole.is_whole
    assert [[count for count, _ in row] for row in whole.rows] == [[8, 2, 0], [0, 5, 5], [0, 0, 0]]
    assert whole.rows[1] == [(0, 0), (5, 4), (5, 4)]

    matrix = np.diag(np.full(40, 9))
    matrix[30, 7] = 5
    matrix[7, 12] = 3
    names = [str(number) for number in range(40)]
    part = make_matrix(list_cells(matrix), names)
    assert not part.is_whole
    assert part.names == ["30", "7", "12"]
    assert part.rows[0][1] == (5, round(5 / 14 * 9))
    assert make_matrix(list_cells(np.diag(np.full(40, 9))), names) is None


def test_the_picture_has_a_point_for_each_cell():
    matrix = np.diag(np.full(257, 9))
    matrix[200, 10] = 1
    address, block = draw_confusion(list_cells(matrix))
    assert block == 1
    picture = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGBA")
    pixels = np.array(picture)
    assert pixels.shape == (257, 257, 4)
    assert pixels[0, 0].tolist() == [37, 99, 235, 255]
    assert pixels[200, 10].tolist()[:3] == [234, 88, 12]
    assert pixels[200, 10][3] > 100  # one image of ten is seen
    assert pixels[10, 200][3] == 0


def test_with_many_classes_some_share_a_point_and_a_mistake_is_never_hidden():
    matrix = np.diag(np.full(1000, 9))
    matrix[4, 5] = 1  # shares a point with right ones
    address, block = draw_confusion(list_cells(matrix))
    assert block == 3
    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGBA"))
    assert pixels.shape == (334, 334, 4)
    assert pixels[1, 1].tolist()[:3] == [234, 88, 12]


@pytest.mark.parametrize("confusion", [CONFUSION, None])
def test_the_page_is_whole_and_escapes_names(confusion):
    page = render_report(content_of(confusion=confusion))
    outline = Outline(page)
    assert "65.00%" in page
    assert "tiny &lt;b&gt;" in page
    assert "a.png: empty file" in page
    assert "a&lt;i&gt;" in page
    assert "http:" not in page
    assert "https:" not in page
    assert outline.count("script") == 1
    assert {outline.count(tag) for tag in ("b", "i")} <= {0, outline.count("b")}
    assert ("class-table" in page) == (confusion is not None)
    assert not any(
        name.startswith("on") or name == "style" for _, attributes in outline.elements for name in attributes
    )


@pytest.mark.parametrize(
    "name",
    [
        "$x$ \\frac",
        "a" * 10_000,
        "two\nlines \x1b[31m",
        "caf\udce9",
        '"><img src=x onerror=alert(1)>',
        "</script><img src=x onerror=alert(1)>",
    ],
)
@pytest.mark.parametrize("count", [3, 40])
def test_a_class_of_any_name_is_shown_as_text(name, count):
    names = [name, *map(str, range(1, count))]
    matrix = np.diag(np.full(count, 8))
    matrix[0, 1] = 2
    image = ShownImage("data:image/png;base64,", name, name, 0.5)
    page = render_report(content_of(names, list_cells(matrix), galleries=(Gallery("t", "t", (image,)),)))
    page.encode()
    outline = Outline(page)
    assert outline.count("script") == (1 if count == 3 else 2)
    assert outline.count("img") == (1 if count == 3 else 2)
    assert "onerror" not in {key for _, attributes in outline.elements for key in attributes}
    assert "\x1b" not in page
    assert len(page) < 100_000


def test_the_policy_allows_this_style_and_script_alone():
    page = render_report(content_of())
    (policy,) = (attributes["content"] for _, attributes in Outline(page).elements if "http-equiv" in attributes)
    hashes = [
        "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
        for text in re.findall(r"<(?:style|script)>(.*?)</(?:style|script)>", page, re.DOTALL)
    ]
    assert len(hashes) == 2
    assert policy == (
        f"default-src 'none'; img-src data:; style-src {hashes[0]}; script-src {hashes[1]}; "
        "base-uri 'none'; form-action 'none'"
    )


@pytest.mark.parametrize(
    ("waiting", "words"), [(0.25, "Loading limits: for 25% of the training"), (0.01, "The network limits: for 99%")]
)
def test_it_says_what_limits(waiting, words):
    content = content_of()
    page = render_report(dataclasses.replace(content, summary=content.summary | {"data_wait_fraction": waiting}))
    assert words in page


def test_it_says_that_a_run_stopped_early():
    content = content_of()
    stopped = content.summary | {"stopped_early": True, "epochs_planned": 9}
    page = render_report(dataclasses.replace(content, summary=stopped))

    assert "9 planned (stopped early)" in page
    assert "planned" not in render_report(content)


def test_the_time_is_split_without_a_rest():
    page = render_report(content_of())
    seconds = re.findall(r'</svg>([^<]+)</td>\s*<td class="n">([\d.]+) s</td>', page)
    assert seconds == [
        ("start and preparing", "2.0"),
        ("network", "3.0"),
        ("waiting for data", "1.0"),
        ("validation, test and saving", "4.0"),
    ]


def test_reliability_bins_hold_all_images():
    confidences = np.array([0.05, 0.5, 0.52, 1.0])
    bins = bin_confidences(confidences, np.array([False, True, False, True]))
    assert bins.counts.sum() == 4
    assert bins.counts[[0, 7, 14]].tolist() == [1, 2, 1]
    assert bins.accuracies[[0, 7, 14]].tolist() == [0, 0.5, 1]
    assert bins.confidences[7] == pytest.approx(0.51)
    page = render_report(content_of(reliability=(bins, None)))
    assert "1 images, confidence 5.0%, right 0.0%" in page


@pytest.mark.parametrize(("count", "images"), [(257, 10_000), (1000, 50_000), (21_841, 200_000)])
def test_the_page_stays_small_for_any_number_of_classes(count, images):
    """Bounded by 3 MB, with the pictures' share of 1.6 MB; a matrix of 21,841 classes alone would have 3.8 GB."""
    names, confusion = many_classes(count, images)
    counts = [5] * count
    content = content_of(names, confusion)
    content = dataclasses.replace(content, manifest=manifest_of(names, counts, counts))
    tracemalloc.start()
    page = render_report(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(page.encode()) < 1_400_000
    assert peak < 120e6
    assert page.count('<td class="name"') == min(count, 1000)
    assert ("classes.csv has all" in page) == (count > 1000)
    assert ('id="confusion"' in page) == (count <= 1000)


def test_the_cells_under_the_pointer_are_the_largest_mistakes():
    names, confusion = many_classes(257, 20_000)
    found = json.loads(json.dumps(describe_cells(confusion, names, 1)))
    assert len(found["cells"]) == 5000
    counts = [count for _, _, count in found["cells"]]
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize(("side", "channels", "kind"), [(28, 1, "png"), (300, 3, "jpeg")])
def test_thumbnails_are_small_and_fit_their_share(side, channels, kind):
    image = noise(0, side, side, channels)
    thumbnails = Thumbnails(100_000)
    address = thumbnails.encode(image, 100)
    assert address.startswith(f"data:image/{kind};base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    assert picture.size == (min(side, 100),) * 2
    if kind == "png":
        assert (np.array(picture) == image[:, :, 0]).all()
    encoded = [address, *(thumbnails.encode(image, 100) for _ in range(200))]
    assert sum(map(len, encoded)) <= 100_000
    assert encoded[-1] == ""
