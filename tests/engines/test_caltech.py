"""Random resized crops of real photographs, every engine against Pillow's of the originals."""

import os
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from test_contract import engines, originals, tolerance

from trainer_classification.config import PrepareConfig
from trainer_classification.data.table import open_table
from trainer_classification.loaders.base import LoaderRequest
from trainer_classification.loaders.resident import open_host_planes, open_host_resident
from trainer_classification.plan import Plan, Policy
from trainer_classification.preparation.pipeline import prepare
from trainer_classification.recipes import RECIPES

FOLDER = Path(os.environ.get("TC_DATA", "")) / "caltech-101"
RECIPE = RECIPES["caltech-101"].policy
FULL = Policy(crop="resized", flip="random")  # boxes from 0.08 of the area on

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (FOLDER / "annotations.parquet").is_file(), reason="TC_DATA names no folder that holds caltech-101"
    ),
]


@pytest.fixture(scope="module")
def caltech(tmp_path_factory):
    options = {"image_size": 128, "formats": "array,beton,tar,planes"}
    made = prepare(PrepareConfig(dataset=str(FOLDER), prepared=str(tmp_path_factory.mktemp("caltech")), **options))
    return made.folder, made.manifest


@engines
@pytest.mark.parametrize("policy", [RECIPE, FULL], ids=["recipe", "full"])
def test_crops_of_photographs_are_those_of_the_originals(engine, policy, caltech):
    folder, manifest = caltech
    table = open_table(folder, manifest, "train")
    plan = Plan(len(table.labels), 0, policy, table.sizes)
    seen = []
    with engine(LoaderRequest(folder, manifest, "train", plan, 128, 128, torch.device("cpu"), 2)) as loader:
        for batch, _ in zip(loader.epoch(0), range(5), strict=False):
            ids = batch.index.numpy()
            expected = originals(caltech, "train", ids, plan.draws(0)[np.arange(plan.count)], 128)
            seen.append(np.abs(batch.images.numpy().astype(int) - expected).mean((1, 2, 3)))
    errors = np.concatenate(seen)
    print(f"{engine.__name__}: mean {errors.mean():.3f}, largest {errors.max():.2f} of 255, {len(errors)} crops")
    assert len(errors) >= 500
    assert errors.mean() <= tolerance(engine)


@pytest.mark.parametrize("policy", [RECIPE, FULL], ids=["recipe", "full"])
def test_crops_of_planes_are_no_further_from_the_originals_than_those_of_the_array(policy, caltech):
    folder, manifest = caltech
    table = open_table(folder, manifest, "train")
    plan = Plan(len(table.labels), 0, policy, table.sizes)
    draws = plan.draws(0)[np.arange(plan.count)]
    request = LoaderRequest(folder, manifest, "train", plan, 128, 128, torch.device("cpu"), 2)
    errors = []
    with open_host_resident(request) as array, open_host_planes(request) as planes:
        for batches in islice(zip(array.epoch(0), planes.epoch(0), strict=True), 5):
            expected = originals(caltech, "train", batches[0].index.numpy(), draws, 128)
            errors.append([np.abs(batch.images.numpy().astype(int) - expected).mean() for batch in batches])
    array_error, planes_error = np.mean(errors, 0)
    print(f"array {array_error:.3f}, planes {planes_error:.3f} of 255")
    assert planes_error <= array_error
