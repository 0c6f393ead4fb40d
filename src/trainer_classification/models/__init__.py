"""Networks, by name."""

from trainer_classification.models.catalogue import NAMES, build, table
from trainer_classification.models.counts import count_macs, count_parameters
from trainer_classification.models.resnet import ResNet
from trainer_classification.models.speednet import SpeedNet

__all__ = ["NAMES", "ResNet", "SpeedNet", "build", "count_macs", "count_parameters", "table"]
