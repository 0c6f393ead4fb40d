"""What only the torch engine has: the original files, worker processes, and /dev/shm."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from test_contract import CROP, SHIFT, collected, opened

from trainer_classification.loaders import torch_dataloader as engine
from trainer_classification.loaders.torch_dataloader import open_torch


def test_with_little_shared_memory_the_same_batches_come_through_a_pipe(photos, monkeypatch):
    with opened(open_torch, photos, CROP) as loader:
        assert loader.uses_shared_memory
        shared = collected(loader.epoch(0))
    monkeypatch.setattr(engine, "free_shared_memory", lambda: 6 * 8 * 32 * 32 * 3)
    with opened(open_torch, photos, CROP) as loader:
        assert not loader.uses_shared_memory
        piped = collected(loader.epoch(0))
    for a, b in zip(shared, piped, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))


def test_originals_that_are_gone_are_named_with_what_to_do(small):
    folder, manifest = small
    moved = dataclasses.replace(manifest, root="/nowhere")
    with pytest.raises(ValueError, match=r"/nowhere no longer holds data/.*--loader resident"):
        opened(open_torch, (folder, moved), SHIFT)


def test_an_original_that_was_damaged_is_named(small, tmp_path):
    folder, manifest = small
    shutil.copytree(manifest.root, tmp_path / "copy")
    (tmp_path / "copy/data/00017.png").write_bytes(b"not an image")
    moved = dataclasses.replace(manifest, root=str(tmp_path / "copy"))
    with opened(open_torch, (folder, moved), SHIFT, 53) as loader:  # noqa: SIM117
        with pytest.raises(ValueError, match=r"Image 17 \(.*00017\.png\) cannot be decoded"):
            list(loader.epoch(0))
    assert Path(manifest.root, "data/00017.png").stat().st_size > 100


def test_the_global_random_state_is_left_alone(small):
    before = torch.get_rng_state()
    with opened(open_torch, small, SHIFT) as loader:
        list(loader.epoch(0))
    assert torch.equal(torch.get_rng_state(), before)
