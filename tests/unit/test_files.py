"""Files are read whole and written whole."""

import ast
import errno
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import trainer_classification
from trainer_classification.files import check_kinds, dump_json, parse_json, read_file, write_atomically


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


def test_no_file_of_a_result_is_written_in_place():
    """Prepare writes into a working folder that is renamed; all else goes through `write_atomically`."""
    package = Path(trainer_classification.__file__).parent
    # A mirror of object storage becomes one by its `.origin.json`, which is written last.
    names = ("files.py", "data/table.py", "data/mirror.py", "forms.py", "streams.py")
    in_working_folders = {package / name for name in names}
    found = []
    for path in sorted(package.rglob("*.py")):
        if path in in_working_folders or "preparation" in path.parts:
            continue
        calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
        for node in calls:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            texts = [value.value for value in node.args if isinstance(value, ast.Constant)]
            writes = name in ("write_text", "write_bytes", "copyfile", "copy2")
            if writes or (name == "open" and {"w", "wb", "x", "xb"} & set(texts)):
                found.append(f"{path.relative_to(package)}:{node.lineno} {name}")
    # A member of an archive that is written atomically as a whole.
    assert [entry for entry in found if not entry.startswith("checkpoint/archive.py")] == []


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path):
    def fail(file):
        file.write(b"half")
        raise OSError("the disk is full")

    (tmp_path / "file").write_text("before")
    with pytest.raises(OSError, match="disk is full"):
        write_atomically(tmp_path / "file", fail)
    assert (tmp_path / "file").read_text() == "before"


@pytest.mark.parametrize("free", [0, 3, 10])
def test_a_full_disk_is_said_whatever_the_function_makes_of_it(tmp_path, monkeypatch, free):
    """torch raises its own RuntimeError in place of the error of the system."""
    real = os.write

    def write(descriptor, data):
        if free < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data)

    def fail(file):
        try:
            file.write(b"0123456789ab")
            file.flush()
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 0") from None

    (tmp_path / "file").write_text("before")
    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(tmp_path / "file", fail)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_said_of_an_array_too(tmp_path, monkeypatch):
    """NumPy writes into a descriptor that it is given, and then raises "128 requested and 0 written"."""
    real = os.write

    def write(descriptor, data):
        if len(data) > 4096:  # not the header
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(tmp_path / "file", lambda file: np.save(file, np.zeros(1 << 16)))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "file"))


def test_a_disk_that_is_full_at_the_flush_is_said_with_the_file(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(tmp_path / "file", b"content")
    assert caught.value.filename == str(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_regular_file_is_refused_before_it_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is a pipe, no regular file"):
        read_file(str(tmp_path / "pipe"))
    with pytest.raises(OSError, match="is a device, no regular file"):
        read_file("/dev/zero")
    with pytest.raises(OSError, match="is a folder, no regular file"):
        read_file(str(tmp_path))


def test_a_file_larger_than_any_image_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "huge").open("wb") as file:
        file.truncate((1 << 30) + 1)
    with pytest.raises(OSError, match="1,073,741,825 bytes"):
        read_file(str(tmp_path / "huge"))


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


@dataclass
class Kinds:
    number: int = 1
    share: float = 0.5
    name: str = "a"
    kind: Literal["x", "y"] = "x"
    names: list[str] = field(default_factory=lambda: ["a"])
    sizes: dict[str, list[int]] = field(default_factory=lambda: {"a": [1]})
    anything: Any = None


def test_values_of_their_kinds_pass():
    check_kinds(Kinds())
    check_kinds(Kinds(share=1, kind="y", names=[], sizes={}, anything=[1, "a"]))


@pytest.mark.parametrize(
    "odd",
    [
        {"number": True}, {"number": 0.5}, {"number": None}, {"share": "0.5"}, {"share": False}, {"name": 1},
        {"kind": "z"}, {"names": "a"}, {"names": ["a", 1]}, {"sizes": []}, {"sizes": {"a": 1}},
        {"sizes": {"a": [1], "b": [None]}}, {"sizes": {1: [1]}},
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_named(odd):
    with pytest.raises(TypeError, match=rf"^{next(iter(odd))} is "):
        check_kinds(Kinds(**odd))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5_000, "", "{"])
def test_json_that_cannot_be_read_is_a_value_error(text):
    with pytest.raises(ValueError):  # noqa: PT011  (of several kinds)
        parse_json(text)


def test_a_file_of_the_largest_size_is_read_and_a_larger_one_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer_classification.files._MAX_BYTES", 10)
    monkeypatch.setattr(Path, "read_bytes", None)  # one call suffices
    (tmp_path / "file").write_bytes(b"0123456789")
    assert read_file(str(tmp_path / "file")) == b"0123456789"
    (tmp_path / "file").write_bytes(b"0123456789A")
    with pytest.raises(OSError, match="has 11 bytes, more than the 10 of any image"):
        read_file(str(tmp_path / "file"))
