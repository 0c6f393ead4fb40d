"""Two torchruns on loopback stand for two machines: they train together, or say on both why they do not."""

import json
import os
import shutil
import socket
import subprocess
import sys

import polars as pl
import pytest

from helpers import tree


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(runner, node, port, dataset):
    """One machine: it has a dataset, prepares for itself and writes its outputs beside the other's."""
    script = runner.command()[1:]
    script[script.index("--dataset") + 1] = str(dataset)
    script[script.index("--prepared") + 1] = str(runner.folder / f"prepared-{node}")
    place = ["--nnodes", "2", "--node-rank", str(node), "--nproc-per-node", "1"]
    address = ["--master-addr", "127.0.0.1", "--master-port", str(port)]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *place, *address, *script],
        cwd=runner.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=runner.environment | {"GLOO_SOCKET_IFNAME": "lo"},
    )


def train_on_two(runner, datasets):
    """(exit code, stderr) of each machine."""
    port = free_port()
    machines = [start(runner, node, port, datasets[node]) for node in (0, 1)]
    try:
        errors = [machine.communicate(timeout=120)[1] for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    return list(zip([machine.returncode for machine in machines], errors, strict=True))


@pytest.fixture
def reversed_classes(tmp_path, dataset):
    """The same images and names, whose classes are listed the other way round."""
    copy = shutil.copytree(dataset, tmp_path / "reversed")
    info = json.loads((copy / "dataset_info.json").read_text())
    info["tasks"][0]["classes"].reverse()
    (copy / "dataset_info.json").write_text(json.dumps(info))
    table = pl.read_parquet(copy / "annotations.parquet")
    entry = pl.element().struct.with_fields((1 - pl.field("class_idx")).alias("class_idx"))
    table.with_columns(pl.col("classifications").list.eval(entry)).write_parquet(copy / "annotations.parquet")
    return copy


@pytest.fixture
def fewer_images(tmp_path, dataset):
    copy = shutil.copytree(dataset, tmp_path / "fewer")
    table = pl.read_parquet(copy / "annotations.parquet")
    table.slice(7).write_parquet(copy / "annotations.parquet")
    return copy


def said_on_both(outcomes):
    """The sentence that both machines end with."""
    said = []
    for code, errors in outcomes:
        assert code != 0
        assert "exitcode  : 2" in errors, errors[-2000:]
        assert errors.count("Traceback") == 1  # torchrun's own
        (line,) = [line for line in errors.splitlines() if line.startswith("Error: ")]
        said.append(line)
    assert said[0] == said[1]
    return said[0]


def test_machines_with_the_same_dataset_train_together(runner, dataset):
    outcomes = train_on_two(runner, [dataset, dataset])
    assert [code for code, _ in outcomes] == [0, 0], outcomes
    assert runner.summary(runner.experiments[-1])["world_size"] == 2
    prepared = [next((runner.folder / f"prepared-{node}").iterdir()) for node in (0, 1)]
    assert tree(prepared[0] / "table") == tree(prepared[1] / "table")


def test_classes_in_another_order_are_an_error_on_both(runner, dataset, reversed_classes):
    """It trained, and learned both orders."""
    sentence = said_on_both(train_on_two(runner, [dataset, reversed_classes]))
    assert "The name of class 0 is b on node 1 (" in sentence
    assert "and a on node 0 (" in sentence
    assert not any((folder / "checkpoints/last.pth").exists() for folder in experiments(runner))


@pytest.mark.slow
def test_another_count_of_images_is_an_error_on_both(runner, dataset, fewer_images):
    """It was a SIGABRT after 85 seconds."""
    sentence = said_on_both(train_on_two(runner, [dataset, fewer_images]))
    assert "The number of train images is 83 on node 1 (" in sentence
    assert "and 90 on node 0 (" in sentence


@pytest.mark.slow
def test_a_machine_without_the_dataset_is_named_on_the_other(runner, dataset):
    (first, told), (second, said) = train_on_two(runner, [dataset, runner.folder / "nothing"])
    assert first != 0
    assert second != 0
    assert "Error: There is no folder" in said
    assert "because of node 1 (" in told
    assert "There is no folder" in told


def experiments(runner):
    return runner.experiments if os.path.isdir(runner.folder / ".data/experiments") else []
