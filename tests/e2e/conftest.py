"""Whole trainings on a tiny dataset, in the process and in processes of their own."""

import pytest

from helpers import encoded, noise, write_dataset
from runner import Runner


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """90 train, 20 validation and 20 test images of two classes that differ in brightness."""
    rows = []
    for number in range(130):
        label = number % 2
        pixels = noise(number, 28, 28) // 2 + 110 * label
        split = "train" if number < 90 else "validation" if number < 110 else "test"
        rows.append({"data": encoded(pixels), "label": "ab"[label], "split": split, "width": 28, "height": 28})
    return write_dataset(tmp_path_factory.mktemp("e2e") / "tiny", rows, ["a", "b"])


@pytest.fixture
def runner(tmp_path, dataset):
    return Runner(tmp_path, dataset)
