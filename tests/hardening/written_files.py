"""Read what commands have written, to see that it is whole and right."""

import csv
import json
import zipfile

import numpy as np
import torch


def outputs(folder):
    """Content of the files that a command was told to write."""
    return {path.name: path.read_bytes() for path in folder.glob("out.*")}


def check_whole(folder):
    """Read every file whose name is final."""
    for path in folder.rglob("*"):
        if not path.is_file() or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            assert all(json.loads(line) for line in path.read_text().splitlines())
        elif path.suffix == ".pth":
            torch.load(path, weights_only=True)
        elif path.suffix in (".zip", ".pt2"):
            assert zipfile.ZipFile(path).testzip() is None
        elif path.suffix == ".npy":
            np.load(path)
        elif path.suffix == ".csv":
            assert list(csv.reader(path.read_text().splitlines()))
        elif path.suffix in (".md", ".html", ".txt"):
            assert path.read_text().endswith(("\n", "</html>"))


def result(run):
    weights = torch.load(run / "model/model.pth", weights_only=True)["state"]["model"]
    summary = json.loads((run / "data/summary.json").read_text())
    rows = [json.loads(line) for line in (run / "data/metrics.jsonl").read_text().splitlines()]
    names = ("accuracy_test", "loss_test", "accuracy_validation", "best_epoch", "model_id", "temperature")
    curve = [(row["loss_train"], row["loss_validation"]) for row in rows]
    return {name: tensor.tolist() for name, tensor in weights.items()}, [summary[name] for name in names], curve
