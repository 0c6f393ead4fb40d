"""Classify images with a trained model: python scripts/predict.py --model .data/experiments/RUN photo.jpg"""

import gc

# What is imported stays: looking for garbage in it takes a tenth of the time to
# the first answer.
gc.set_threshold(100_000)

from trainer_classification.config import PredictConfig  # noqa: E402


def main(config: PredictConfig) -> int:
    from trainer_classification.inference.command import run

    return run(config)


if __name__ == "__main__":
    from trainer_classification import cli

    cli.leave(cli.run(PredictConfig, main))
