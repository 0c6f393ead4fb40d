"""Train an image classifier on a Hafnia dataset: python scripts/train.py --dataset mnist"""

import gc
import time

STARTED = time.monotonic()  # before the imports: what a user waits for counts

from trainer_classification.config import TrainConfig  # noqa: E402


def main(config: TrainConfig) -> int:
    from trainer_classification.training.start import start

    gc.freeze()
    gc.enable()
    return start(config, STARTED)


if __name__ == "__main__":  # not in worker processes, which import this file
    # What is imported stays: looking for garbage in it takes a tenth of the time to
    # the first step.
    gc.disable()

    from trainer_classification import cli

    cli.leave(cli.run(TrainConfig, main))
