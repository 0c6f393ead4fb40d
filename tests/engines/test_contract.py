"""The contract of loaders, asked of every engine: exactly the planned batches, the same pixels, nothing left behind."""

import dataclasses
import gc
import os
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from trainer_classification.augment import reference as oracle
from trainer_classification.data import array, table
from trainer_classification.data.array import open_array
from trainer_classification.data.decode import decode
from trainer_classification.data.planes import open_planes
from trainer_classification.loaders import resident
from trainer_classification.loaders.base import LoaderRequest
from trainer_classification.loaders.dali import open_dali
from trainer_classification.loaders.registry import ENGINES as SPECS
from trainer_classification.loaders.registry import choose_engine, installed, open_loader
from trainer_classification.loaders.torch_dataloader import open_torch
from trainer_classification.plan import Plan, Policy, central_boxes, identity

CPU = torch.device("cpu")
SHIFT = Policy(crop="shift", shift=3, pad="reflect", flip="random", cutout=4)
ZERO = Policy(crop="shift", shift=2, pad="zero", flip="alternating")
COLOR = Policy(crop="shift", shift=3, flip="random", color_jitter=0.5, cutout=3, erasing=0.6, rand_augment=9)
STILL = Policy(flip="random", cutout=5)
CROP = Policy(crop="resized", area=(0.2, 1.0), flip="random")


def host(request):
    return resident.HostResident(
        open_array(request.folder, request.manifest, request.split),
        request.schedule,
        request.image_size,
        request.device,
        request.threads,
    )


def device(request):
    store = open_array(request.folder, request.manifest, request.split)
    return resident.DeviceResident(store, request.schedule, request.image_size, request.device)


def ffcv(request):
    from trainer_classification.loaders.ffcv import open_ffcv  # needs FFCV's library

    return open_ffcv(request)


ARRAY = {"resident-host": host, "resident-device": device}
PLANES = {"planes-host": resident.open_host_planes, "planes-device": resident.open_device_planes}
ENGINES = ARRAY | PLANES | {"ffcv": ffcv, "dali": open_dali, "torch": open_torch}


def tolerance(engine):
    """Mean absolute difference, of 255, from Pillow's crop of the original: array and planes were resized before."""
    return 3.5 if engine in (*ARRAY.values(), *PLANES.values()) else 2.5


def _installed(name):
    return name not in SPECS or installed(name)


def named(engines):
    """Parameters with names; an engine that is not installed is skipped, and it is said how to install it."""
    parameters = []
    for name, engine in engines.items():
        needs = name.split("-")[0]
        missing = pytest.mark.skipif(not _installed(needs), reason=f"{needs} is not installed")
        parameters.append(pytest.param(engine, id=name, marks=missing))
    return parameters


engines = pytest.mark.parametrize("engine", named(ENGINES))
array_engines = pytest.mark.parametrize("engine", named(ARRAY))
planes_engines = pytest.mark.parametrize("engine", named(PLANES))


def plan_of(prepared, policy, seed=7):
    store = open_array(*prepared, "train")
    return Plan(len(store.labels), seed, policy, store.sizes)


def opened(engine, prepared, policy=None, batch_size=8, split="train", **more):
    plan = plan_of(prepared, policy) if policy is not None else None
    folder, manifest = prepared
    return engine(LoaderRequest(folder, manifest, split, plan, batch_size, manifest.train_size, CPU, threads=2, **more))


def collected(batches):
    """Loaders reuse their buffers, so each batch is copied."""
    return [(b.images.clone(), b.labels.clone(), b.index.clone(), b.count) for b in batches]


@engines
def test_training_delivers_the_planned_samples_in_the_planned_order(engine, small):
    plan = plan_of(small, SHIFT)
    with opened(engine, small, SHIFT) as loader:
        for epoch in (0, 3):
            index = torch.cat([index for _, _, index, _ in collected(loader.epoch(epoch))]).numpy()
            assert np.array_equal(index, plan.order(epoch)[: len(index)])
            assert len(index) == loader.steps * 8 == 48


def originals(prepared, split, ids, draws, size):
    """The reference: Pillow's antialiased bilinear `resize(box=...)` of each original, mirrored as drawn."""
    folder, manifest = prepared
    files, rows = table.open_table(folder, manifest, split).files, []
    for i in ids.tolist():
        pixels = decode((Path(manifest.root) / files[i]).read_bytes())
        image = Image.fromarray(pixels.squeeze()).convert("RGB")
        x, y, w, h = (draws.box[i].astype(float) * (image.size * 2)).round().tolist()
        cut = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=(x, y, x + w, y + h)))
        rows.append(cut[:, ::-1] if draws.flip[i] else cut)
    return np.stack(rows)


def difference(images, expected):
    """Mean absolute difference of each image."""
    assert images.dtype == torch.uint8
    assert images.is_contiguous()
    assert images.shape == expected.shape
    return np.abs(images.numpy().astype(int) - expected).mean((1, 2, 3))


def difference_from_originals(engine, images, expected):
    """`difference`; of planes in luma alone.

    The colors of these photographs, unlike those of real ones (`test_caltech.py`), have as much detail as their light.
    """
    if engine not in PLANES.values():
        return difference(images, expected)
    return np.abs((images.numpy().astype(int) - expected) @ [0.299, 0.587, 0.114]).mean((1, 2))


def compare_with_the_array(engine, prepared, policy, most):
    store, plan = open_array(*prepared, "train"), plan_of(prepared, policy)
    with opened(engine, prepared, policy) as loader:
        for images, labels, index, count in collected(loader.epoch(2)):
            ids = index.numpy()
            size, draws = prepared[1].train_size, plan.draws(2)[ids]
            expected = oracle.augment(store.images, ids, draws, policy, size, store.layout)
            assert difference(images, expected).max() <= most
            assert np.array_equal(labels.numpy(), store.labels[ids])
            assert count == len(ids)


@engines
@pytest.mark.parametrize("policy", [SHIFT, ZERO, STILL, COLOR], ids=["reflect", "zero", "none", "color"])
@pytest.mark.parametrize("kind", ["small", "uneven"])
def test_pixels_and_labels_of_small_images_are_exactly_those_of_the_reference(engine, kind, policy, request):
    compare_with_the_array(engine, request.getfixturevalue(kind), policy, 0)


@engines
def test_small_images_can_be_cropped_too(engine, small):
    compare_with_the_array(engine, small, CROP, 2.5)


@engines
def test_colors_and_erased_boxes_of_crops_are_those_of_the_crops(engine, photos):
    """What follows a crop is exact: on the pixels of its own crop each engine does what the reference does."""
    policy = dataclasses.replace(CROP, color_jitter=0.6, erasing=0.5, rand_augment=6)
    plan = plan_of(photos, policy)
    draws = plan.draws(1)[np.arange(plan.count)]
    with opened(engine, photos, CROP) as plain, opened(engine, photos, policy) as loader:
        pairs = zip(collected(plain.epoch(1)), collected(loader.epoch(1)), strict=True)
        for (crops, _, index, _), (images, _, _, _) in pairs:
            boxes = oracle.blanked_boxes(draws[index.numpy()], policy, crops.shape[1])
            for row, sample in enumerate(index.tolist()):
                expected = crops[row].numpy()
                for operation in draws.operations[sample]:
                    expected = oracle.operate(expected, operation, policy.fill)
                expected = oracle.jitter_colors(expected, draws.color[sample])
                expected = oracle.blank(expected, [box[row] for box in boxes], policy.fill)
                assert np.array_equal(images[row].numpy(), expected)


@array_engines
def test_crops_of_the_array_are_those_of_the_reference(engine, photos):
    compare_with_the_array(engine, photos, CROP, 0.6)


@planes_engines
@pytest.mark.parametrize("split", ["train", "test"])
def test_crops_of_planes_are_those_of_the_reference(engine, split, photos):
    """Crops for training, and for evaluation whole images."""
    store = open_planes(*photos, split)
    policy = CROP if split == "train" else Policy()
    draws = plan_of(photos, CROP).draws(0) if split == "train" else identity(10)
    with opened(engine, photos, CROP if split == "train" else None, split=split) as loader:
        for images, labels, index, count in collected(loader.epoch(0)):
            ids = index.numpy()[:count]
            expected = oracle.augment(store.images, ids, draws[ids], policy, 32, "YCC")
            assert difference(images[:count], expected).max() <= 0.8
            assert np.array_equal(labels.numpy()[:count], store.labels[ids])


@engines
def test_crops_and_labels_are_those_of_the_originals(engine, photos):
    expected_labels, plan = open_array(*photos, "train").labels, plan_of(photos, CROP)
    seen = []
    with opened(engine, photos, CROP) as loader:
        for images, labels, index, _ in collected(loader.epoch(2)):
            ids = index.numpy()
            expected = originals(photos, "train", ids, plan.draws(2)[np.arange(plan.count)], 32)
            seen.append(difference_from_originals(engine, images, expected))
            assert np.array_equal(labels.numpy(), expected_labels[ids])
    assert np.concatenate(seen).mean() <= tolerance(engine)
    assert np.concatenate(seen).max() <= 3 * tolerance(engine)  # none is upside down, or another one


@engines
@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_covers_every_sample_once_for_any_number_of_ranks(engine, small, world):
    store, seen = open_array(*small, "test"), []
    for rank in range(world):
        with opened(engine, small, None, 4, "test", rank=rank, world_size=world) as loader:
            batches = collected(loader.epoch(0))
            assert len(batches) == loader.steps
            for images, labels, index, count in batches:
                assert (index[count:] == -1).all()
                real = index[:count].numpy()
                assert np.array_equal(images[:count].numpy(), store.images[real])
                assert np.array_equal(labels[:count].numpy(), store.labels[real])
                seen += real.tolist()
    assert sorted(seen) == list(range(len(store.labels)))


@array_engines
def test_evaluation_of_larger_images_shows_the_array_whole(engine, photos):
    store = open_array(*photos, "test")
    ids = np.arange(len(store.labels))
    expected = oracle.augment(store.images, ids, identity(len(ids)), Policy(), 32, "WHC").astype(int)
    with opened(engine, photos, None, len(ids), "test") as loader:
        ((images, *_),) = collected(loader.epoch(0))
    assert np.abs(images.numpy() - expected).mean() < 0.6


@engines
def test_evaluation_of_larger_images_shows_the_originals_whole(engine, photos):
    ids = np.arange(10)
    with opened(engine, photos, None, len(ids), "test") as loader:
        ((images, *_),) = collected(loader.epoch(0))
    expected = originals(photos, "test", ids, identity(10), 32)
    assert difference_from_originals(engine, images, expected).max() <= tolerance(engine)


@engines
@pytest.mark.parametrize("eval_crop", [1.0, 0.875])
def test_evaluation_of_larger_images_shows_the_central_square_of_the_originals(engine, eval_crop, photos):
    ids = np.arange(10)
    draws = identity(10, central_boxes(table.open_table(*photos, "test").sizes, eval_crop))
    with opened(engine, photos, None, len(ids), "test", eval_crop=eval_crop) as loader:
        ((images, _, index, _),) = collected(loader.epoch(0))
    assert index.tolist() == ids.tolist()
    expected = originals(photos, "test", ids, draws, 32)
    assert difference_from_originals(engine, images, expected).max() <= tolerance(engine)
    whole = originals(photos, "test", ids, identity(10), 32)
    assert difference(images, whole).mean() > 4 * tolerance(engine)


@engines
def test_a_view_that_is_cut_for_ranks_is_the_one_of_a_single_process(engine, photos):
    with opened(engine, photos, None, 6, "test", eval_crop=0.875) as loader:
        alone = torch.cat([images[:count] for images, _, _, count in collected(loader.epoch(0))])
    found = torch.zeros_like(alone)
    for rank in range(2):
        with opened(engine, photos, None, 6, "test", eval_crop=0.875, rank=rank, world_size=2) as loader:
            for images, _, index, count in collected(loader.epoch(0)):
                found[index[:count]] = images[:count]
    assert torch.equal(found, alone)


@engines
@pytest.mark.parametrize("kind", ["small", "uneven"])
def test_evaluation_shows_images_that_keep_their_size_whole_whatever_the_view(engine, kind, request):
    prepared = request.getfixturevalue(kind)
    store = open_array(*prepared, "test")
    with opened(engine, prepared, None, 10, "test", eval_crop=0.875) as loader:
        ((images, *_),) = collected(loader.epoch(0))
    assert np.array_equal(images.numpy(), store.images)


@engines
def test_ranks_share_each_global_batch_and_see_the_same_pixels_as_one_process(engine, small):
    with opened(engine, small, SHIFT) as loader:
        alone = collected(loader.epoch(1))
    parts = []
    for rank in range(2):
        with opened(engine, small, SHIFT, rank=rank, world_size=2) as loader:
            parts.append(collected(loader.epoch(1)))
    for whole, *shares in zip(alone, *parts, strict=True):
        for field in range(3):
            assert torch.equal(whole[field], torch.cat([share[field] for share in shares]))


@engines
def test_resuming_at_any_step_gives_the_rest_of_the_epoch(engine, small):
    with opened(engine, small, SHIFT) as loader:
        whole = collected(loader.epoch(4))
        for start in range(loader.steps + 1):
            rest = collected(loader.epoch(4, start))
            assert len(rest) == len(whole) - start
            for a, b in zip(whole[start:], rest, strict=True):
                assert all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))


@engines
def test_batch_size_and_threads_change_no_sample(engine, small):
    by_id = []
    for batch_size in (5, 13):
        with opened(engine, small, SHIFT, batch_size) as loader:
            by_id.append({int(i): im for b in collected(loader.epoch(0)) for i, im in zip(b[2], b[0], strict=True)})
    common = by_id[0].keys() & by_id[1].keys()
    assert len(common) > 40
    assert all(torch.equal(by_id[0][i], by_id[1][i]) for i in common)


@engines
def test_a_batch_larger_than_the_split_is_cut_to_it(engine, small):
    with opened(engine, small, SHIFT, 1000) as loader:
        ((_, _, index, count),) = collected(loader.epoch(0))
    assert count == len(index) == 53


@engines
def test_a_batch_stays_as_it_is_until_the_next_is_asked_for(engine, small):
    with opened(engine, small, SHIFT) as loader:
        for batch in loader.epoch(0):
            before = batch.images.clone()
            torch.zeros(200, 200) @ torch.zeros(200, 200)
            assert torch.equal(batch.images, before)


@engines
def test_an_epoch_left_early_is_followed_by_a_whole_one(engine, small):
    with opened(engine, small, SHIFT) as loader:
        whole = collected(loader.epoch(1))
        next(loader.epoch(0))
        again = collected(loader.epoch(1))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(whole, again, strict=True))


def test_a_new_epoch_waits_for_what_still_writes_into_the_buffers(small, monkeypatch):
    with opened(host, small, SHIFT) as loader:
        gate, fill, first, second = threading.Event(), loader._fill, threading.Event(), threading.Event()

        def gated(*args):
            if first.is_set():
                second.set()
                gate.wait()
            first.set()
            return fill(*args)

        monkeypatch.setattr(loader, "_fill", gated)
        next(loader.epoch(0))
        assert second.wait(60)
        leaving = threading.Thread(target=loader.epoch, args=(1,))
        leaving.start()
        leaving.join(0.2)
        waited = leaving.is_alive()
        gate.set()
        leaving.join()
        assert waited


@engines
def test_opening_and_closing_fifty_times_leaves_no_thread_file_or_memory(engine, small):
    process = psutil.Process()
    children = process.children()  # a fork server that an earlier test left is none of ours

    def cycle():
        before = threading.active_count()
        loader = opened(engine, small, SHIFT)
        next(loader.epoch(0))
        loader.close()
        loader.close()
        assert threading.active_count() == before

    for _ in range(5):
        cycle()
    gc.collect()
    threads, files, memory = process.num_threads(), len(os.listdir("/proc/self/fd")), process.memory_info().rss
    for _ in range(50):
        cycle()
    gc.collect()
    assert process.num_threads() <= threads
    assert process.children() == children
    assert len(os.listdir("/proc/self/fd")) <= files
    assert process.memory_info().rss - memory < 8e6


@engines
def test_a_missing_split_names_those_there_are(engine, small):
    with pytest.raises(ValueError, match="train, test"):
        opened(engine, small, None, split="validation")


def test_a_damaged_shard_names_the_file_and_the_command(small, tmp_path):
    folder, manifest = small
    for name in (array.path("test"), *table.paths("test")):
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((Path(folder) / name).read_bytes()[: -1 if name == array.path("test") else None])
    with pytest.raises(ValueError, match=r"test\.images\.bin is damaged.*prepare\.py --dataset made --force"):
        open_array(tmp_path, manifest, "test")


def test_auto_says_what_it_chose_and_why(small):
    folder, manifest = small
    choice = choose_engine("auto", manifest.array_layout, 1, CPU, prepared=manifest.formats)
    open_loader(choice, LoaderRequest(folder, manifest, "test", None, 4, 20, CPU)).close()
    assert "resident on the host" in choice.reason
