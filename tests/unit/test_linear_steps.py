"""Steps of prepare whose cost grows with the images alone give what their plain definitions give."""

import pickle

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_classification.data.formats import group_rows
from trainer_classification.data.split_names import ALL_SPLITS, NUMBER_OF
from trainer_classification.preparation import job_result, splits
from trainer_classification.preparation.content_hash import HASH, from_hex
from trainer_classification.preparation.job_result import FormatResult, JobResult
from trainer_classification.preparation.preallocated import PreallocatedRegions
from trainer_classification.preparation.problems import EqualFiles, find_disagreements, group_equal_files


def cut_class_by_class(names, labels, hashes, name, fraction):
    """The definition of `_cut`, one class after the other."""
    train = np.flatnonzero(names == "train")
    seed = {"test": 1, "validation": 2}[name]
    position = np.array([xxhash.xxh3_64_intdigest(text, seed) for text in hashes[train].tolist()], np.uint64)
    chosen = position < np.uint64(fraction * 2.0**64)
    for label in np.unique(labels[train]):
        members = np.flatnonzero(labels[train] == label)
        if len(members) >= 3 and not chosen[members].any():
            chosen[members[position[members].argmin()]] = True
        elif chosen[members].all():
            chosen[members[position[members].argmax()]] = False
    names[train[chosen]] = name


@given(
    labels=st.lists(st.integers(0, 12), min_size=1, max_size=120),
    content=st.integers(1, 200),
    fraction=st.sampled_from([0.01, 0.2, 0.7, 0.95]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None)
def test_splits_are_cut_as_class_by_class_also_where_images_are_equal(labels, content, fraction, seed):
    """Equal images have equal positions: the first of them is the one that moves."""
    random = np.random.default_rng(seed)
    labels = np.array(labels)
    hashes = np.array([f"{number:032x}" for number in random.integers(0, content, len(labels))], "S32")
    expected = np.full(len(labels), "train", "<U20")
    cut_class_by_class(expected, labels, hashes, "test", fraction)
    found = np.full(len(labels), NUMBER_OF["train"], np.int8)
    splits._cut(found, labels, from_hex(hashes), "test", fraction)
    assert np.array_equal(np.array(ALL_SPLITS)[found], expected)


@given(numbers=st.lists(st.integers(0, 9), max_size=60))
def test_rows_are_grouped_in_ascending_order(numbers):
    numbers = np.array(numbers, np.int64)
    groups = dict(group_rows(numbers))
    assert list(groups) == np.unique(numbers).tolist()
    for number, rows in groups.items():
        assert np.array_equal(rows, np.flatnonzero(numbers == number))


def test_a_job_carries_the_files_of_its_own_regions_alone(tmp_path):
    files = [str(tmp_path / f"{number:06d}") for number in range(5000)]
    file = np.random.default_rng(0).permutation(5000)
    regions = PreallocatedRegions(files, file, np.arange(5000), np.arange(5000) + 7)
    part = regions.select(slice(100, 130))
    assert [part.files[number] for number in part.file] == [files[number] for number in file[100:130]]
    assert np.array_equal(part.offsets, np.arange(100, 130))
    assert np.array_equal(part.sizes, np.arange(107, 137))
    assert len(part.files) == 30
    assert len(pickle.dumps(part)) < len(pickle.dumps(regions)) / 50


def result(hashes, reasons, suffixes, compared=0):
    made = JobResult.empty(len(hashes), compared)
    made.formats["tar"] = FormatResult.empty(len(hashes), np.dtype([("suffix", "<U4")]))
    made.thumbnails[:] = compared
    made.sizes.flat = np.arange(2 * len(hashes))
    for row, columns in enumerate(zip(hashes, reasons, suffixes, strict=True)):
        made.hashes[row], made.reasons[row], made.formats["tar"].fields[row] = columns
        made.contents[row] = b"jpeg" if columns[2] == (".jpg",) else b"png"
    return made


def test_results_of_jobs_are_joined_in_order_and_a_long_reason_widens_no_other(tmp_path):
    stems = [tmp_path / "0", tmp_path / "1"]
    # The second job meets the suffixes in another order.
    result([b"a" * 16, b""], ["", "long " * 1000], [(".png",), (".jpg",)], compared=1).save(stems[0])
    result([b"b" * 16], ["short"], [(".jpg",)], compared=2).save(stems[1])
    whole = job_result.collect(stems, 3)
    assert whole.reasons[:].tolist() == ["", "long " * 1000, "short"]
    assert whole.good_rows().tolist() == [0]
    assert list(whole.contents) == [b"png", b"jpeg", b"jpeg"]
    assert whole.formats["tar"].fields[np.arange(3)]["suffix"].tolist() == [".png", ".jpg", ".jpg"]
    assert whole.hashes.tolist() == [b"a" * 16, b"", b"b" * 16]
    assert whole.sizes.tolist() == [[0, 1], [2, 3], [0, 1]]
    assert whole.thumbnails[:, 0, 0].tolist() == [1, 2, 2]
    assert len(whole.formats["tar"].fields) == 3


def test_equal_files_are_grouped_by_all_digits_and_only_good_ones():
    texts = ["a" * 32, "b" * 32, "a" * 32, "a" * 31 + "b", "b" * 32, "c" * 32, "a" * 32, "c" * 32]
    good = np.array([0, 1, 2, 3, 4, 5, 6])  # the last is bad
    equal = group_equal_files(from_hex(np.array(texts, "S32")), good)
    assert group_lists(equal) == [[0, 2, 6], [1, 4]]
    files = [*"stuvwxyz"]
    found = find_disagreements("classes", equal, files, np.array([0] * 6 + [1] * 2), ["cat", "dog"])
    assert found == [{"classes": ["cat", "dog"], "files": ["s", "u", "y"]}]


def test_an_image_without_a_label_contradicts_none():
    equal = EqualFiles(np.array([4, 5, 6, 0, 1, 2, 3]), np.array([0, 3, 5]))
    labels = np.array([-1, 1, 0, 1, 0, -1, 1])
    found = find_disagreements("classes", equal, [*"abcdefg"], labels, ["cat", "dog"])
    assert found == [{"classes": ["cat", "dog"], "files": ["c", "d"]}, {"classes": ["cat", "dog"], "files": ["e", "g"]}]


def group_lists(equal):
    groups = [rows.tolist() for rows in np.split(equal.rows, equal.starts)[1:]]
    return sorted(groups)


@given(
    contents=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=40),
    bad=st.sets(st.integers(0, 39)),
)
def test_equal_files_are_grouped_also_where_others_share_their_first_digits(contents, bad):
    texts = [f"{first * 5:x}{first:015x}{rest:016x}" for first, rest in contents]
    good = np.array([row for row in range(len(texts)) if row not in bad], np.int64)
    expected = {}
    for row in good.tolist():
        expected.setdefault(texts[row], []).append(row)
    equal = group_equal_files(from_hex(np.array(texts, "S32")), good)
    assert group_lists(equal) == sorted(rows for rows in expected.values() if len(rows) > 1)


@pytest.mark.parametrize("count", [0, 1])
def test_no_equal_files_are_no_groups(count):
    equal = group_equal_files(np.array(["a"] * count, HASH), np.arange(count))
    assert group_lists(equal) == []
    assert find_disagreements("classes", equal, ["x"] * count, np.zeros(count, int), ["cat"]) == []
