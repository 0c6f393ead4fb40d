"""What only the dali engine has: one graph for CPU and GPU, and names for images that DALI cannot decode."""

import re
import shutil

import pytest
from test_contract import CROP, SHIFT, opened

from trainer_classification.data.tar import open_tars
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


def test_a_damaged_image_is_named_and_the_loader_can_still_be_closed(photos, tmp_path):
    folder, manifest = photos
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    store = open_tars(broken / "tar", "train", 53)
    shard = sorted((broken / "tar").glob("train-*.tar"))[store.shard[17]]
    with shard.open("r+b") as file:
        file.seek(int(store.offsets[17]))
        file.write(bytes(int(store.sizes[17])))
    with opened(open_dali, (broken, manifest), CROP) as loader:  # noqa: SIM117
        with pytest.raises(ValueError, match=r"Image 17 \(data/00017\.\w+\) is damaged.*--force"):
            list(loader.epoch(0))
