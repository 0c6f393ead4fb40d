"""Train an image classifier on a Hafnia dataset: python scripts/train.py --dataset mnist"""

import time

STARTED = time.time()  # before the imports: what a user waits for counts

from trainer_classification.config import TrainConfig  # noqa: E402


def main(config: TrainConfig) -> int:
    from trainer_classification.training.start import start

    return start(config, STARTED)


if __name__ == "__main__":
    from trainer_classification import cli  # not in worker processes, which import this file

    cli.leave(cli.run(TrainConfig, main))
