"""Every engine delivers the same batches from object storage as from a local folder."""

import shutil

import fsspec
import numpy as np
import pytest
import torch

from trainer_classification.data import mirror
from trainer_classification.data.table import open_table
from trainer_classification.loaders.base import LoaderRequest
from trainer_classification.loaders.registry import EngineChoice, open_loader
from trainer_classification.plan import Plan, Policy
from trainer_classification.preparation import remote_target
from trainer_classification.preparation.remote_source import open_prepared
from trainer_classification.storage import ObjectStore

URL = "memory://engines/made"


@pytest.fixture(params=["photos", "small"])
def dataset(request, tmp_path, monkeypatch):
    """A prepared dataset as a local folder, and a mirror of it of which nothing is fetched."""
    folder, manifest = request.getfixturevalue(request.param)
    copied = shutil.copytree(folder, tmp_path / folder.name)
    monkeypatch.setenv("TRAINER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mirror, "_BLOCK_BYTES", 4096)
    remote_target.upload(copied, manifest, ObjectStore(URL))
    yield folder, *open_prepared(URL, "")
    fsspec.filesystem("memory").store.clear()


def batches(engine, folder, manifest, rank):
    sizes = open_table(folder, manifest, "train").sizes
    policy = Policy(crop="resized", flip=True) if manifest.resized else Policy(crop="shift", shift=2, flip=True)
    plan = Plan(manifest.splits["train"].count, 5, policy, sizes)
    side = manifest.train_size
    request = LoaderRequest(folder, manifest, "train", plan, 16, side, torch.device("cpu"), 2, rank, 2)
    placement = "host" if engine in ("resident", "planes") else ""
    with open_loader(EngineChoice(engine, placement, ""), request) as loader:
        return [(batch.index.tolist(), batch.images.numpy().copy()) for batch in loader.epoch(1, start_step=1)]


@pytest.mark.parametrize("engine", ["resident", "planes", "ffcv", "dali"])
@pytest.mark.parametrize("rank", [0, 1])
def test_batches_from_a_store_are_those_of_a_folder(dataset, engine, rank):
    if engine == "dali":
        pytest.importorskip("nvidia.dali", reason="dali is not installed")
    local, folder, manifest = dataset
    mine = batches(engine, folder, manifest, rank)
    other = batches(engine, local, manifest, rank)
    assert [index for index, _ in mine] == [index for index, _ in other]
    for (_, first), (_, second) in zip(mine, other, strict=True):
        np.testing.assert_array_equal(first, second)
