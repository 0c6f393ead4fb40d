"""A name never becomes a path, and any list of names can be printed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_classification.inference.class_map import map_classes
from trainer_classification.names import escape_markdown, list_names, one_line, safe_component


@given(st.text(max_size=400))
@settings(max_examples=200, deadline=None)
def test_any_text_becomes_one_component_that_the_file_system_takes(tmp_path_factory, name):
    component = safe_component(name)
    folder = tmp_path_factory.getbasetemp() / "names"
    path = folder / component
    path.mkdir(parents=True, exist_ok=True)
    assert path.resolve().parent == folder.resolve()
    assert not component.startswith(".")


@pytest.mark.parametrize("name", ["mnist", "caltech-101", "two words", "épée", "a.b", "image_classification"])
def test_ordinary_names_stay_as_they_are(name):
    assert safe_component(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/etc", "a/b", "a\\b", "a\0b", "x" * 300, "\udcff"])
def test_other_names_stay_different_from_each_other_and_from_ordinary_ones(name):
    found = safe_component(name)
    assert found not in (name, safe_component(name + "x"), "a-b")
    assert "/" not in found


@pytest.mark.parametrize(
    ("count", "limit", "listed"),
    [(0, 4, "none"), (1, 4, "0"), (4, 4, "0, 1, 2, 3"), (1002, 2, "0, 1 and 1,000 more")],
)
def test_a_list_of_names_ends_with_the_number_of_the_others(count, limit, listed):
    assert list_names(map(str, range(count)), limit) == listed
    assert list_names([""]) == ""


def test_classes_that_differ_are_listed_printable():
    """A class folder may have any bytes as its name, and a note with these would end the command."""
    notes = map_classes(["a", "b\udcff"], ["a", "c\udcfe"]).notes
    assert "b\\udcff" in notes[1]
    assert "c\\udcfe" in notes[0]
    assert all(note.encode() for note in notes)


@given(st.text(), st.integers(3, 90))
@settings(max_examples=200, deadline=None)
def test_any_name_becomes_one_line_of_limited_length(name, length):
    shown = one_line(name, length)
    assert len(shown) <= length
    assert len(shown.splitlines()) <= 1
    assert "\x1b" not in shown
    assert bool(shown.encode()) == bool(name)


def test_a_long_name_is_cut_in_the_middle_and_others_stay():
    assert one_line("abcdefghij", 10) == "abcdefghij"
    assert one_line("abcdefghijk", 10) == "abcde…hijk"
    assert one_line("a\x1b[31m\nb") == "a\\x1b[31m\\nb"


def test_markup_in_a_name_is_escaped():
    assert escape_markdown("caltech-101") == "caltech-101"
    assert escape_markdown("[a](b) <img> *x* `c`\n# d") == (r"\[a\]\(b\) &lt;img&gt; \*x\* \`c\`\\n\# d")
