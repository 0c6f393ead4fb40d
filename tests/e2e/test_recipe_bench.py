"""The bench of recipes: a row a seed, in the place of those of the same command."""

import json
import subprocess
import sys

import pytest

from runner import ROOT


def bench(folder, dataset, *options):
    command = [sys.executable, str(ROOT / "benchmarks/recipe_bench.py"), "--dataset", str(dataset)]
    done = subprocess.run(
        [*command, "--model", "resnet-small", "--epochs", "1", "--batch-size", "8", "--json", "rows.json", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "rows.json").read_text())["rows"]


@pytest.mark.slow
def test_rows_are_put_in_the_place_of_those_of_the_same_command(tmp_path, dataset):
    start = "python benchmarks/recipe_bench.py --dataset tiny --model resnet-small --epochs 1 --batch-size 8"
    first = bench(tmp_path, dataset, "--per-class", "4", "--seeds", "2")
    again = bench(tmp_path, dataset, "--per-class", "4", "--seeds", "2")
    assert [row["seed"] for row in again] == [0, 1]
    assert {row["command"] for row in again} == {f"{start} --per-class 4 --seeds 2"}
    assert [row["accuracy"] for row in again] == [row["accuracy"] for row in first]
    other = bench(tmp_path, dataset, "--seeds", "1")
    assert other[:2] == again
    assert other[2]["command"] == f"{start} --seeds 1"
