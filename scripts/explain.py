"""Say where a file comes from: python scripts/explain.py .data/experiments/RUN/data/predictions-test_unlabeled.jsonl"""

from trainer_classification.config import ExplainConfig


def main(config: ExplainConfig) -> None:
    from pathlib import Path

    from trainer_classification.inference.explain import explain

    for path in config.listed:
        print("\n".join(explain(Path(path))))


if __name__ == "__main__":
    from trainer_classification import cli

    cli.leave(cli.run(ExplainConfig, main))
