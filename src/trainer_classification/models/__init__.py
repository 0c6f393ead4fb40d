"""Networks, by name."""

from trainer_classification.models.resnet import ResNet, build, count_macs, count_parameters, table

__all__ = ["ResNet", "build", "count_macs", "count_parameters", "table"]
