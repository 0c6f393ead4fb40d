"""Both placements of the resident loader on a GPU against the slow definition; needs torch and numpy alone."""

import numpy as np
import pytest
import torch

from trainer_classification.augment import device
from trainer_classification.augment import reference as oracle
from trainer_classification.data.array import ArrayStore
from trainer_classification.loaders.base import BatchSchedule
from trainer_classification.loaders.resident import DeviceResident, HostResident
from trainer_classification.plan import Plan, Policy

POLICIES = {
    "shift": Policy(crop="shift", shift=3, pad="reflect", flip="random", cutout=4),
    "zero": Policy(crop="shift", shift=3, pad="zero", flip="alternating"),
    "crop": Policy(crop="resized", area=(0.2, 1.0), flip="random"),
    "color": Policy(crop="shift", shift=3, cutout=4, color_jitter=0.5, erasing=0.5, rand_augment=9),
}


def store_and_plan(name, side=40, count=70):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    sizes = random.integers(side, 300, (count, 2)).astype(np.int32)
    layout = "WHC" if name == "crop" else "HWC"
    return ArrayStore(images, random.integers(0, 9, count), sizes, layout), Plan(count, 0, POLICIES[name], sizes)


@pytest.mark.parametrize("engine", [DeviceResident, HostResident])
@pytest.mark.parametrize("name", POLICIES)
def test_batches_on_the_gpu_are_those_of_the_reference(engine, name):
    if engine is HostResident:
        pytest.importorskip("numba", reason="host placement needs numba")
    store, plan = store_and_plan(name)
    size = 32 if name == "crop" else 40
    with engine(store, BatchSchedule(plan, 70, 16), size, torch.device("cuda")) as loader:
        seen = 0
        for batch in loader.epoch(1):
            ids = batch.index.cpu().numpy()
            expected = oracle.augment(store.images, ids, plan.draws(1)[ids], plan.policy, size, store.layout)
            difference = np.abs(batch.images.cpu().numpy().astype(int) - expected)
            assert batch.images.is_cuda
            assert batch.images.is_contiguous()
            assert np.array_equal(batch.labels.cpu().numpy(), store.labels[ids])
            assert difference.max() <= (6 if name == "crop" else 0)
            seen += batch.count
        assert seen == 64


@pytest.mark.parametrize("name", ["crop", "color"])
def test_an_epoch_of_the_device_placement_never_waits_for_the_gpu(name):
    store, plan = store_and_plan(name)
    size = 32 if name == "crop" else 40
    with DeviceResident(store, BatchSchedule(plan, 70, 16), size, torch.device("cuda")) as loader:
        list(loader.epoch(0))
        torch.cuda.set_sync_debug_mode("error")
        try:
            for batch in loader.epoch(1):
                batch.images.permute(0, 3, 1, 2).float().mean()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_the_operations_give_the_same_pixels_on_gpu_and_cpu():
    store, plan = store_and_plan("crop")
    index = torch.arange(16)
    draws = plan.draws(0)[index.numpy()]
    args = [
        (torch.from_numpy(store.images).to(there), index.to(there), device.to_device(draws, there))
        for there in (torch.device("cpu"), torch.device("cuda"))
    ]
    here, there = (device.augment(*arg, plan.policy, 32, "WHC").cpu().int() for arg in args)
    assert (here - there).abs().max() <= 2
