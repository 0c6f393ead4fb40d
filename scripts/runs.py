"""List the runs that were trained: python scripts/runs.py --csv"""

from trainer_classification.config import RunsConfig


def main(config: RunsConfig) -> None:
    from pathlib import Path

    from trainer_classification.outputs.runs import find_runs, format_csv, format_table

    runs = find_runs(Path(config.output_dir or ".data"))
    print(
        format_csv(runs) if config.csv else "\n".join(format_table(runs)),
        end="" if config.csv else "\n",
    )


if __name__ == "__main__":
    from trainer_classification import cli

    cli.leave(cli.run(RunsConfig, main))
