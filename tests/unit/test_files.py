"""Files are read whole and written whole."""

import json
import os

import pytest

from trainer_classification.files import dump_json, read_file, write_atomically


def test_a_file_is_read_whole_though_the_system_returns_it_in_pieces(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"0123456789")
    assert read_file(str(tmp_path / "file")) == b"0123456789"
    real = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, size: real(descriptor, 4))
    assert read_file(str(tmp_path / "file")) == b"0123456789"


@pytest.mark.parametrize("content", [b"\xc3\xa9", "é", lambda file: file.write(b"\xc3\xa9")])
def test_bytes_text_and_what_a_function_writes_replace_the_file(tmp_path, content):
    (tmp_path / "file").write_text("before")
    write_atomically(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == b"\xc3\xa9"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path):
    def fail(file):
        file.write(b"half")
        raise OSError("the disk is full")

    (tmp_path / "file").write_text("before")
    with pytest.raises(OSError, match="disk is full"):
        write_atomically(tmp_path / "file", fail)
    assert (tmp_path / "file").read_text() == "before"


def test_content_is_on_the_disk_before_it_has_the_name(tmp_path, monkeypatch):
    flushed = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda d: flushed.append((tmp_path / "file").exists()) or real(d))
    write_atomically(tmp_path / "file", b"content")
    assert flushed == [False, True]  # the content, then the folder with the new name


def test_json_has_null_for_what_is_no_number():
    values = {"a": [float("nan"), 1.5], "b": {"c": float("-inf")}, "d": "NaN", "e": (1, True, None)}
    text = dump_json(values)
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": [None, 1.5],
        "b": {"c": None},
        "d": "NaN",
        "e": [1, True, None],
    }
