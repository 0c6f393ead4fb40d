"""Convert a Hafnia dataset into shards that train at full speed: python scripts/prepare.py --dataset cifar100"""

from trainer_classification.config import PrepareConfig


def main(config: PrepareConfig) -> None:
    """Prepare the dataset, or clean up after it. Imports come late, so that --help is fast."""
    if config.clean:
        from trainer_classification.preparation.clean import clean

        clean(config)
        return

    from trainer_classification.preparation.pipeline import prepare

    prepare(config)


if __name__ == "__main__":
    from trainer_classification import cli  # not in worker processes, which import this file

    cli.leave(cli.run(PrepareConfig, main))
