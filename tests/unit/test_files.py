"""Atomic writes: the complete old content or the complete new one, and no file left over."""

import os

import pytest

from trainer_classification.files import read_file, write_atomically


@pytest.mark.parametrize("content", [b"new", "new", lambda file: file.write(b"new")])
def test_a_file_is_written_from_bytes_text_or_a_function(tmp_path, content):
    (tmp_path / "a").write_text("a longer old content")
    assert write_atomically(tmp_path / "a", content) == tmp_path / "a"
    assert read_file(str(tmp_path / "a")) == b"new"
    assert os.listdir(tmp_path) == ["a"]


def test_a_write_that_fails_half_way_leaves_the_old_content_and_nothing_else(tmp_path):
    (tmp_path / "a").write_text("old")

    def fail(file):
        file.write(b"ne")
        assert (tmp_path / "a").read_text() == "old"  # while it is written, too
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "a", fail)
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]
