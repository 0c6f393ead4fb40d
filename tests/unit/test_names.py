"""A name never becomes a path."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_classification.names import safe_component


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
