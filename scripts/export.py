"""Write a trained model for other runtimes and check it: python scripts/export.py --model RUN --format onnx"""

import sys

from trainer_classification.config import ExportConfig


def main(config: ExportConfig) -> None:
    from trainer_classification.exporting.command import run_export

    run_export(config)


if __name__ == "__main__":
    from trainer_classification import cli

    sys.exit(cli.run(ExportConfig, main))
