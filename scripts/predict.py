"""Classify images with a trained model: python scripts/predict.py --model .data/experiments/RUN photo.jpg"""

import sys

from trainer_classification.config import PredictConfig


def main(config: PredictConfig) -> int:
    from trainer_classification.inference.command import run

    return run(config)


if __name__ == "__main__":
    from trainer_classification import cli

    sys.exit(cli.run(PredictConfig, main))
