"""Names in one buffer are those that came in, in every way of asking for them."""

import io
import json
import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_classification.data import file_names
from trainer_classification.data.file_names import FileNames, read_names, write_names

# Surrogates come from names of no valid UTF-8 (os.fsdecode) and from JSON's escapes, also two that would be a pair.
NAMES = st.lists(st.text(st.characters() | st.characters(categories=["Cs"]) | st.sampled_from('/\\"\n\0'), max_size=9))


@pytest.fixture(autouse=True, params=[3, 8192])
def few_at_once(request, monkeypatch):
    monkeypatch.setattr(file_names, "_AT_ONCE", request.param)
    monkeypatch.setattr(file_names, "_BYTES_AT_ONCE", request.param)


@given(names=NAMES)
def test_names_come_back_one_by_one_and_all_at_once(names):
    held = FileNames.of(iter(names))
    assert len(held) == len(names)
    assert list(held) == names
    assert [held[row] for row in range(-len(names), len(names))] == names * 2
    assert held == names
    assert names == held
    assert held != [*names, "x"]
    for row in (len(names), -len(names) - 1):
        with pytest.raises(IndexError):
            held[row]


@given(names=NAMES, start=st.none() | st.integers(-9, 9), stop=st.none() | st.integers(-9, 9), data=st.data())
def test_slices_and_chosen_rows_are_those_of_a_list(names, start, stop, data):
    held = FileNames.of(names)
    part = held[start:stop]
    assert part == names[start:stop]
    assert held[stop:start:-2] == names[stop:start:-2]
    rows = data.draw(st.lists(st.integers(0, max(0, len(part) - 1)), max_size=12 * min(1, len(part))))
    taken = part.take(np.array(rows, np.int64))
    assert taken == [part[row] for row in rows]
    assert FileNames.join([taken, part, held]) == [*taken, *part, *names]


def test_offsets_are_wider_where_four_bytes_do_not_suffice():
    lengths = [np.array([2**31, 5], np.uint32)] * 3
    assert file_names._add_up(lengths[:1]).dtype == np.uint32
    assert file_names._add_up(lengths).tolist() == [0, *np.cumsum([2**31, 5] * 3).tolist()]
    assert file_names._add_up([]).tolist() == [0]


@given(names=NAMES)
def test_names_below_a_folder_are_joined_as_by_os_path(names):
    paths = FileNames.of(names).below("/data")
    assert paths == [os.path.join("/data", name) for name in names]
    assert pickle.loads(pickle.dumps(paths[1:3])) == paths[1:3]
    assert paths.take(np.arange(len(names))) == paths
    assert FileNames.of(paths) == paths


def test_a_slice_is_pickled_without_the_names_of_others():
    names = FileNames.of(f"photos/{row:06d}.jpg" for row in range(10_000))
    assert len(pickle.dumps(names[5000:5010])) < 600


@given(names=NAMES)
def test_the_file_of_names_has_the_bytes_of_json_and_is_read_back(names):
    file = io.BytesIO()
    write_names(file, FileNames.of(names))
    assert file.getvalue() == json.dumps(names, indent=0).encode()
    assert read_names(file.getvalue()) == names
    for indent in (None, 2):  # as others may write it
        assert read_names(json.dumps(names, indent=indent).encode()) == names


@pytest.mark.parametrize(
    "content", ["", "[", '{"a": 1}', '["a", 1]', '["a" "b"]', '[["a"]]', '["a"]]', '"a"', "[null]"]
)
def test_what_is_no_list_of_names_is_refused(content):
    with pytest.raises(ValueError, match=r"no list|not all names|delimiter|Extra data"):
        read_names(content.encode())
