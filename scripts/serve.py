"""Serve a trained model over HTTP: python scripts/serve.py --model .data/experiments/RUN --port 8080"""

from trainer_classification.config import ServeConfig


def main(config: ServeConfig) -> None:
    from trainer_classification.serving.command import run_server

    run_server(config)


if __name__ == "__main__":
    from trainer_classification import cli

    cli.leave(cli.run(ServeConfig, main))
