"""What only the dali engine has: one graph for CPU and GPU, and names for images that DALI cannot decode."""

import dataclasses
import os
import re
import shutil

import pytest
from test_contract import CROP, SHIFT, opened, plan_of

from trainer_classification.data.tar import open_split, open_tars
from trainer_classification.loaders.dali import open_dali
from trainer_classification.loaders.dali_pipeline import Graph, build

pytest.importorskip("nvidia.dali", reason="dali is not installed: pip install nvidia-dali-cuda120")


def serialised(gpu, encoded, policy):
    graph = Graph(encoded, encoded, 3, 32, policy, gpu)
    return build(graph, lambda: [], 8, 2, None).serialize()


def operators(text):
    """The operators of a serialised pipeline, without those that copy to the GPU."""
    return [name for name in re.findall(rb"(?:decoders__|_)?[A-Z]\w+", text) if name in KNOWN]


KNOWN = {b"decoders__ImageSlice", b"Resize", b"Flip", b"Erase", b"Slice", b"Cat"}


@pytest.mark.parametrize(("encoded", "policy"), [(True, CROP), (False, SHIFT)], ids=["photos", "small"])
def test_the_graph_of_the_gpu_is_that_of_the_cpu_on_another_device(encoded, policy):
    here, there = serialised(False, encoded, policy), serialised(True, encoded, policy)
    assert operators(here) == operators(there) != []
    assert (b"mixed" in there) == encoded
    assert b"gpu" in there
    assert b"gpu" not in here
    assert b"mixed" not in here


@pytest.fixture
def broken(photos, tmp_path):
    """Returns a prepared dataset after it has changed a byte of an image, and the loader that reads it."""
    folder, manifest = photos

    def damage(sample, byte):
        broken = shutil.copytree(folder, tmp_path / "broken")
        store = open_tars(broken / "tar", "train", 53)
        shard = sorted((broken / "tar").glob("train-*.tar"))[store.shard[sample]]
        with shard.open("r+b") as file:
            file.seek(int(store.offsets[sample]) + byte % int(store.sizes[sample]))
            value = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([value ^ 1]))
        return broken, manifest

    return damage


@pytest.mark.parametrize("byte", [0, 333, -1])
def test_an_image_with_a_changed_byte_is_named_and_never_reaches_dali(broken, byte):
    with opened(open_dali, broken(17, byte), CROP) as loader:
        epoch = loader.epoch(0)
        message = r"Image 17 \(data/00017\.\w+\) is damaged in .*train-\d+\.tar: .* written.*--force"
        with pytest.raises(ValueError, match=message):
            list(epoch)


def test_a_loader_goes_on_after_a_damaged_image(photos, broken):
    """Batches are in the making when the damage of a later one is found."""
    last = int(plan_of(photos, CROP).order(0)[5 * 8])
    with opened(open_dali, broken(last, 0), CROP) as loader:
        batches = loader.epoch(0)
        for _ in range(3):
            assert next(batches).count == 8
        with pytest.raises(ValueError, match=f"Image {last} "):
            list(batches)
        assert next(loader.epoch(1)).count == 8


def test_a_tar_of_an_earlier_version_is_read_without_a_comparison(broken):
    """Reading all of a large dataset before the first batch would take longer than it is worth."""
    folder, manifest = broken(17, 333)
    files = {name: info for name, info in manifest.files.items() if not name.endswith(".xxh3")}
    older = dataclasses.replace(manifest, files=files)
    assert open_split(folder, older, "train").checksums is None
