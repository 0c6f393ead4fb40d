"""The report of a run in a real browser: nothing on its console, nothing wider than the screen, tables that sort."""

import csv
import re

import pytest

from browser import NAMES, Browser, add_script, find_browser
from helpers import encoded, noise, write_dataset
from runner import Runner

pytestmark = pytest.mark.skipif(find_browser() is None, reason=f"needs one of {', '.join(NAMES)}")

# Runs within the page's own policy, which gets its hash.
MEASURE = """
const column = (number) => [...document.querySelectorAll("#class-table tbody tr")]
  .map((row) => row.cells[number].textContent);
const click = (number) => document.querySelectorAll("#class-table thead th")[number].querySelector("button").click();
const found = {width: innerWidth, content: document.documentElement.scrollWidth,
  ground: getComputedStyle(document.body).backgroundColor, text: getComputedStyle(document.body).color};
click(0); found.up = column(0);
click(0); found.down = column(0);
click(2); found.numbers = column(2).map((text) => Number(text.replace(",", "")));
send(found);
"""
CLASSES = ["a", "b", "<img src=x onerror=alert(1)>", "long " * 20]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run on images of four classes that differ in brightness, some with the wrong label."""
    root = tmp_path_factory.mktemp("report")
    rows = []
    for number in range(220):
        split = "train" if number < 140 else "validation" if number < 180 else "test"
        label = (number + (number % 9 == 1)) % 4
        pixels = noise(number, 28, 28) // 3 + 55 * (number % 4)
        data = encoded(pixels)
        rows.append({"data": data, "label": CLASSES[label], "split": split, "width": 28, "height": 28})
    runner = Runner(root, write_dataset(root / "tiny", rows, CLASSES))
    errors = runner("--epochs", "3")
    assert "No report" not in errors
    (found,) = runner.experiments
    return found / "data"


@pytest.fixture
def browser(tmp_path):
    return Browser(find_browser(), tmp_path)


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wrong_in_any_size_and_color(folder, browser, width, dark):
    page = folder / "report.html"
    assert page.stat().st_size < 3_000_000
    assert browser.open(page, width, dark=dark).console == []

    measured = add_script(page, browser.folder / "measured.html", MEASURE, allowed=True)
    visit = browser.open(measured, width, dark=dark)
    assert visit.console == []
    found = visit.found
    assert found["width"] == width
    assert found["content"] == width
    brightness = [sum(map(int, re.findall(r"\d+", found[name])[:3])) for name in ("ground", "text")]
    assert (brightness[0] < brightness[1]) == dark
    assert found["up"] == found["down"][::-1]
    assert sorted(found["up"], key=str.casefold) == sorted(found["down"], key=str.casefold)
    assert found["numbers"] == sorted(found["numbers"], reverse=True)


def test_a_script_that_it_did_not_bring_does_not_run(folder, browser):
    page = add_script(folder / "report.html", browser.folder / "foreign.html", "send(1)", allowed=False)
    visit = browser.open(page, 1280)
    assert visit.found is None
    assert "Content Security Policy" in "".join(visit.console)


def test_images_are_shown_and_likely_wrong_labels_are_listed(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    for title in ("Most confident mistakes", "Least certain right answers", "Training images as the network saw them"):
        assert title in page
    assert page.count("<img ") > 30
    with (folder / "likely_wrong_labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        number = int(row["file"].removeprefix("data/").removesuffix(".png"))
        assert row["split"] == ("validation" if number < 180 else "test")
        assert row["label"] != row["suggested"]
        assert row["label"] == CLASSES[(number + (number % 9 == 1)) % 4]


def test_without_images_no_picture_and_no_file_name_is_in_it(tmp_path, folder):
    runner = Runner(tmp_path, folder.parents[3] / "tiny")
    runner("--epochs", "1", "--report-images", "off")
    (found,) = runner.experiments
    page = (found / "data/report.html").read_text(encoding="utf-8")
    assert "<img " not in page
    assert "data:image" not in page
    assert "(--report-images off)" in page
    with (found / "data/likely_wrong_labels.csv").open(encoding="utf-8") as file:
        assert {row["file"] for row in csv.DictReader(file)} <= {""}
