"""Checkpoints to export, and what an export needs."""

import importlib.util
from pathlib import Path

import torch

from helpers import meta_of
from trainer_classification import models
from trainer_classification.checkpoint import file as checkpoint

EXTRA = [name for name in ("onnx", "onnxscript", "onnxruntime", "openvino") if not importlib.util.find_spec(name)]
CLASSES = ["cat", "dög", "0 - zero", 'a "quoted", name']


def write_checkpoint(folder: Path, network: str = "resnet-small", size: int = 32, **more) -> Path:
    """Write a checkpoint of random weights whose norms do something, of a dataset that was resized and cropped."""
    torch.manual_seed(0)
    about = {"resized": True, "array_size": size + size // 4, "temperature": 0.5, "task": "animals"} | more
    channels = about.get("channels", 3)
    module = models.build(network, len(CLASSES), channels, size)
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.weight.data.uniform_(0.5, 1.5)
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 1.5)
    meta = meta_of(network, CLASSES, image_size=size, width=0, **about)
    checkpoint.save(folder / "model.pth", {"model": module.state_dict()}, meta)
    return folder / "model.pth"
