"""The dali loader on a GPU against the slow definition."""

import dataclasses
import io

import numpy as np
import pytest
import torch

from helpers import photograph
from trainer_classification.augment import reference as oracle
from trainer_classification.data.array import ArrayStore
from trainer_classification.data.table import Table
from trainer_classification.data.tar import open_tars
from trainer_classification.loaders.base import BatchSchedule
from trainer_classification.loaders.dali import DaliLoader
from trainer_classification.plan import Plan, Policy
from trainer_classification.preparation.write_tar import FIELDS, TarContent, write_tars

pytest.importorskip("nvidia.dali", reason="dali is not installed: pip install nvidia-dali-cuda120")
Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

COUNT = 40
CUDA = torch.device("cuda")
SHIFT = Policy(crop="shift", shift=3, pad="reflect", flip="random", cutout=4)
COLOR = dataclasses.replace(SHIFT, color_jitter=0.5, erasing=0.5, rand_augment=9)
CROP = Policy(crop="resized", area=(0.2, 1.0), flip="random")


def table_of(sizes):
    return Table(np.arange(COUNT) % 7, np.array(sizes, np.int32), [f"{i}.jpg" for i in range(COUNT)])


def delivered(loader):
    with loader:
        for batch in loader.epoch(1):
            assert batch.images.device.type == loader.device.type
            assert batch.images.is_contiguous()
            ids = batch.index.cpu().numpy()
            assert np.array_equal(batch.labels.cpu().numpy(), ids % 7)
            yield ids, batch.images.cpu().numpy().astype(int)


@pytest.mark.parametrize("policy", [SHIFT, COLOR])
def test_small_images_are_exact(policy):
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 24, 24, 3), dtype=np.uint8)
    table, plan = table_of([(24, 24)] * COUNT), Plan(COUNT, 0, policy)
    store = ArrayStore(images, table.labels, table.sizes)
    for ids, got in delivered(DaliLoader(store, table, BatchSchedule(plan, COUNT, 8), 24, 3, device=CUDA, threads=2)):
        assert np.array_equal(got, oracle.augment(images, ids, plan.draws(1)[ids], policy, 24))


def test_photographs_are_close_to_those_of_pillow(tmp_path):
    sizes = np.random.default_rng(0).integers(70, 200, (COUNT, 2))
    files = []
    for i, (width, height) in enumerate(sizes.tolist()):
        file = io.BytesIO()
        Image.fromarray(photograph(i, height, width)).save(file, "JPEG", quality=92)
        files.append(file.getvalue())
    table = table_of(sizes)
    content = TarContent(np.array([*map(len, files)]), np.full(COUNT, ".jpg", FIELDS), table.labels)
    write_tars(tmp_path, "train", files.__getitem__, content)
    plan, store = Plan(COUNT, 0, CROP, table.sizes), open_tars(tmp_path, "train", COUNT)
    draws = plan.draws(1)[np.arange(COUNT)]
    for ids, got in delivered(DaliLoader(store, table, BatchSchedule(plan, COUNT, 8), 32, 3, device=CUDA, threads=2)):
        for i, image in zip(ids.tolist(), got, strict=True):
            expected = oracle.resized_crop(np.asarray(Image.open(io.BytesIO(files[i]))), draws.box[i], 32)
            expected = expected[:, ::-1] if draws.flip[i] else expected
            assert np.abs(image - expected).mean() <= 2.5
