"""Columns of few values read as the arrays that they stand for, whatever order and however many the values are."""

import pickle

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainer_classification.preparation.coded_column import CodedColumn
from trainer_classification.preparation.content_hash import HASH, from_hex, hash_content, to_hex
from trainer_classification.preparation.format import StoredImage
from trainer_classification.preparation.kept_images import IMAGE

VALUES = st.lists(st.integers(0, 5), max_size=30)


def column_of(values, dtype=np.int64):
    column = CodedColumn(len(values), dtype)
    for row, value in enumerate(values):
        column[row] = value
    return column


@given(parts=st.lists(VALUES, max_size=4), chosen=st.data())
def test_columns_are_joined_whatever_values_each_has_met_first(parts, chosen):
    values = np.concatenate([np.zeros(0, np.int64), *map(np.array, parts)]).astype(np.int64)
    whole = CodedColumn(len(values), np.int64)
    start = 0
    for part in parts:
        whole.put(start, pickle.loads(pickle.dumps(column_of(part))))
        start += len(part)
    rows = np.array(chosen.draw(st.lists(st.integers(0, max(0, len(values) - 1)), max_size=len(values))), np.int64)
    assert whole[:].tolist() == list(whole) == values.tolist()
    assert whole[rows].tolist() == whole.take(rows)[:].tolist() == values[rows].tolist()
    for value in range(7):
        assert np.array_equal(whole.equals(value), values == value)


def test_more_values_than_a_byte_counts_are_kept_apart():
    """With numbers that stay bytes, value 256 would read as value 0."""
    values = [*range(300), *range(299, -1, -1)]
    assert column_of(values)[:].tolist() == values
    whole = CodedColumn(1200, np.int64)
    whole.put(0, column_of(values[:600]))
    whole.put(600, column_of([7] * 600))
    assert whole[:].tolist() == values + [7] * 600
    wide = CodedColumn(70_000, np.int64)
    for number in range(70_000):
        wide[number] = number
    assert wide[:].tolist() == [*range(70_000)]


def test_a_column_takes_a_byte_a_row_and_keeps_its_first_value_and_type():
    column = CodedColumn(100_000, object, "")
    column[5] = "long " * 1000
    assert len(pickle.dumps(column)) < 110_000
    assert column.of_length(2)[:].tolist() == ["", ""]
    fields = CodedColumn(2, np.dtype([("suffix", "<U4")]))
    fields[1] = (".jpg",)
    assert fields[:]["suffix"].tolist() == ["", ".jpg"]
    assert fields[:].dtype == fields.dtype


def test_hashes_keep_zeros_at_their_ends_and_none_has_no_digits():
    """A hash that loses them as text would be another, and its image go to another split."""
    digits = np.array(["ab" + "00" * 15, "00" * 15 + "ab", "0" * 31 + "1"], "S32")
    hashes = from_hex(digits)
    assert hashes.dtype == HASH
    assert np.array_equal(to_hex(hashes), digits)
    assert to_hex(np.array([b"", b"\xab"], HASH)).tolist() == [b"", b"ab" + b"00" * 15]


def test_a_kept_file_is_known_as_such_though_its_hash_ends_in_zeros():
    """Its record gives the hash as a Python object, without these; the file would be stored as a decoded image."""
    data = next(data for number in range(10_000) if hash_content(data := b"%d" % number).endswith(b"\0"))
    image = np.zeros(1, IMAGE)
    image["hash"] = hash_content(data)
    stored = StoredImage(data, (), 0, None, image[0]["hash"])
    assert stored.is_file
    assert not StoredImage(data + b"1", (), 0, None, image[0]["hash"]).is_file
