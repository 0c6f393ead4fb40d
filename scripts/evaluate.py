"""Evaluate a trained model on a split of a Hafnia dataset: python scripts/evaluate.py --model RUN --dataset mnist"""

from trainer_classification.config import EvaluateConfig


def main(config: EvaluateConfig) -> None:
    from trainer_classification.inference.evaluate_command import run_evaluation

    run_evaluation(config)


if __name__ == "__main__":
    from trainer_classification import cli  # not in worker processes, which import this file

    cli.leave(cli.run(EvaluateConfig, main))
