"""Compiled code is kept where this user may write, and loaded only from where nobody else may."""

import os
import tempfile
from pathlib import Path

import pytest

from trainer_classification import kernels


@pytest.fixture(autouse=True)
def _closed(monkeypatch, tmp_path):
    """Neither the code's folder nor the home can be written, and numba is not imported yet."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")  # so that it is put back
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setattr(kernels, "_may_write", lambda folder: False)
    monkeypatch.setattr(kernels.sys, "modules", {})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_a_folder_of_the_users_own_keeps_it(tmp_path):
    for _ in range(2):  # the second finds that of the first
        os.environ.pop("NUMBA_CACHE_DIR", None)
        kernels._keep_code_elsewhere()
        folder = Path(os.environ["NUMBA_CACHE_DIR"])
        assert folder == tmp_path / f"trainer-classification-{os.getuid()}"
        assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", ["open to others", "a link", "a file"])
def test_a_folder_that_others_may_write_is_not_used(tmp_path, kind):
    """Whoever may write there would choose what this user runs."""
    path = tmp_path / f"trainer-classification-{os.getuid()}"
    if kind == "open to others":
        path.mkdir()
        path.chmod(0o770)
    elif kind == "a link":
        path.symlink_to(tmp_path)
    else:
        path.write_bytes(b"")
        path.chmod(0o700)
    kernels._keep_code_elsewhere()
    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    assert folder != path
    assert folder.stat().st_mode & 0o777 == 0o700


def test_what_the_user_or_numba_chooses_stays(monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/chosen")
    kernels._keep_code_elsewhere()
    assert os.environ["NUMBA_CACHE_DIR"] == "/chosen"
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setattr(kernels, "_may_write", lambda folder: folder.name == "numba")
    kernels._keep_code_elsewhere()
    assert "NUMBA_CACHE_DIR" not in os.environ
