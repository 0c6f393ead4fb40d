"""Train an image classifier on a Hafnia dataset: python scripts/train.py --dataset mnist"""

import sys
import time

STARTED = time.time()  # before the imports: what a user waits for counts

from trainer_classification.config import TrainConfig  # noqa: E402


def main(config: TrainConfig) -> int:
    from trainer_classification.training.loop import Stopped, train

    try:
        train(config, STARTED)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        return stop.code
    return 0


if __name__ == "__main__":
    from trainer_classification import cli  # not in worker processes, which import this file

    sys.exit(cli.run(TrainConfig, main))
