"""The model of GPUs that are not at hand: counts that can be checked by hand, published rows, the page it makes."""

from pathlib import Path

import pytest

from harness import gpu_model
from harness.gpu_model import GPUS, LOADS, Operation, limit, operations, seconds
from trainer_classification.models import build, count_macs

PAGE = Path(__file__).parents[2] / "docs/gpu-model.md"


def test_a_step_computes_three_times_its_forward_pass_less_the_gradient_of_the_images():
    macs = count_macs(build("resnet18", 1000, 3, 64), 3, 64)
    stem = 64 * 3 * 49 * 32 * 32
    forward = sum(operation.flops for operation in operations("resnet18", 64, 4, training=False))
    assert forward == 2 * 4 * macs
    assert sum(operation.flops for operation in operations("resnet18", 64, 4)) == 2 * 4 * (3 * macs - stem)


def test_bytes_are_those_of_inputs_and_outputs_and_views_are_free():
    steps = operations("resnet-small", 28, 2, training=False)
    first = steps[0]
    assert first.name == "convolution"
    assert first.bytes == 2 * (2 * 3 * 28 * 28 + 16 * 3 * 25 + 2 * 16 * 12 * 12)
    assert not {"view", "t", "detach"} & {operation.name for operation in steps}


def test_a_step_takes_the_longer_of_arithmetic_and_memory_and_never_less_than_its_launches():
    gpu = GPUS["V100"]
    heavy, wide = Operation("mm", 1e12, 1), Operation("add", 0, 1e9)
    assert seconds([heavy, wide], gpu) == pytest.approx(1 / (125.3 * 0.5) + 1 / (900 * 0.8))
    assert seconds([Operation("add", 0, 1)] * 100, gpu) == pytest.approx(100 * gpu_model.LAUNCH_SECONDS)
    assert limit([heavy, wide], gpu).startswith("arithmetic")
    assert limit([wide], gpu).startswith("memory")
    assert limit([Operation("add", 0, 1)], gpu).startswith("launches")


def test_every_published_row_is_met_within_a_sixth():
    for row in gpu_model.PUBLISHED:
        ours = gpu_model.rate(row.network, 224, row.gpu, 32, half=row.half, training=row.training)
        assert ours == pytest.approx(row.images_per_second, rel=1 / 6), row


def test_all_trainings_of_the_page_are_buildable():
    assert all(operations(load.network, load.image_size, 2) for load in LOADS)


def test_the_page_holds_the_tables_the_command_prints():
    page = PAGE.read_text()
    tables = (gpu_model.check_table, gpu_model.measured_table, gpu_model.demand_table, gpu_model.supply_table)
    assert all(table() in page for table in tables)
