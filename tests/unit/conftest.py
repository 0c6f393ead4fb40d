"""What tests of object storage share."""

import pytest


@pytest.fixture
def memory(tmp_path, monkeypatch):
    """The objects in memory, none at first, and a cache that is the test's own."""
    import fsspec

    from trainer_classification import storage

    system = fsspec.filesystem("memory")
    monkeypatch.setenv("TRAINER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "_WAITS", (0.0,))
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]
