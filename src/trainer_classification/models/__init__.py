"""Networks, by name."""

from trainer_classification.models.catalogue import NETWORKS, NetworkSpec, build, table
from trainer_classification.models.counts import count_macs, count_parameters
from trainer_classification.models.resnet import ResNet
from trainer_classification.models.speednet import SpeedNet

__all__ = [
    "NETWORKS",
    "NetworkSpec",
    "ResNet",
    "SpeedNet",
    "build",
    "count_macs",
    "count_parameters",
    "table",
]
