"""Measure the wait for data in training, and the time to an accuracy: python benchmarks/train_bench.py"""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import cases, tables
from harness import time_to_accuracy as accuracy
from harness.bottleneck import list_stages
from harness.engines import OURS
from harness.intervals import median_interval, ratio_interval
from harness.loader_timing import Timing, measure_loaders
from harness.options import TrainBenchConfig
from harness.provenance import provenance
from harness.time_to_accuracy import AccuracyRun
from harness.workload import Workload
from trainer_classification import cli
from trainer_classification.device import choose_device

COLUMNS = {
    "input": lambda row: row["input"],
    "step": lambda row: f"{1000 * row['step_seconds']:.2f} ms",
    **tables.RATE_COLUMNS,
    "data-wait": lambda row: f"{row['data_wait_fraction']:.2%}",
    "of synthetic": lambda row: f"{row['of_synthetic']:.3f}",
}
NOTE = (
    "synthetic: the same batch again and again, without a loader. data-wait: fraction of the time in which the device "
    "had nothing to do, waiting for a batch. of synthetic: the rate over that of synthetic, in the same rounds. What "
    "is missing to 1 is the cost of the loader."
)


def main(config: TrainBenchConfig) -> int:
    scratch = Path(config.scratch)
    prepared = cases.prepare_dataset(config.dataset, 0, scratch, config.threads)
    workload = cases.describe_workload(
        prepared, scratch, 0, config.threads, choose_device(config.device)[0]
    )
    rows, disqualified = measure_steps(config, workload)
    content: dict[str, Any] = {"rows": rows}
    title = tables.describe_rows(rows[0])
    tables.print_table(title, list(COLUMNS), tables.format_rows(rows, COLUMNS))
    page = f"# Training\n\n## {title}\n\n{tables.format_table(rows, COLUMNS)}\n\n{NOTE}\n"

    if config.accuracy:
        content["time_to_accuracy"], lines = measure_time_to_accuracy(config, workload)
        print(*lines, sep="\n")
        page += "\n" + "\n".join(f"- {line}" for line in lines) + "\n"
    if config.json:
        tables.write_json(Path(config.json), content)
    if config.markdown:
        Path(config.markdown).write_text(page)
    return 1 if disqualified else 0


def measure_steps(config: TrainBenchConfig, workload: Workload) -> tuple[list[dict], list[str]]:
    """Measure the step time, the wait for data and the cost of each loader, in turns.

    Returns:
        The rows, and the names of the candidates that failed.
    """
    from harness.step_timing import fit_batch_size

    engines = cases.split_names(config.loaders)
    cases.check_names("--loaders", engines, OURS)
    names = [
        name
        for name in list_stages(engines)
        if name == "stage-step" or name.startswith("stage-train-")
    ]
    measured = measure_loaders(workload, names, Timing(config.seconds, config.turns), cases.say)
    for name, reason in measured.left_out.items():
        print(f"{name} is left out: {reason}")

    batch_size = fit_batch_size(workload).batch_size
    synthetic = [turn.rate for turn in measured.turns["stage-step"]]
    rows = []
    for row in measured.rows:
        turns = measured.turns[row["loader"]]
        row |= {
            "input": "synthetic"
            if row["loader"] == "stage-step"
            else row["loader"].removeprefix("stage-train-"),
            "network": workload.recipe.model,
            "batch_size": batch_size,
            "step_seconds": batch_size / row["images_per_second"],
            "data_wait_fraction": median_interval(
                [turn.waited / turn.seconds for turn in turns]
            ).median,
            "of_synthetic": ratio_interval([turn.rate for turn in turns], synthetic).median,
        }
        rows.append(row)

    return rows, measured.disqualified


def measure_time_to_accuracy(
    config: TrainBenchConfig, workload: Workload
) -> tuple[dict, list[str]]:
    """Train ours before and after the baseline, so that a drift of the machine's speed shows.

    Returns:
        The results for the JSON file, and lines for the user.
    """

    def run(name: str, open_training: Callable[[], accuracy.Training]) -> AccuracyRun:
        cases.say(f"training to {config.accuracy:.1%}: {name}")
        training = open_training()
        try:
            return accuracy.train_to_accuracy(
                training, config.accuracy, config.limit, workload.torch_device
            )
        finally:
            training.close()

    def open_ours() -> accuracy.Ours:
        return accuracy.Ours(workload, config.epochs)

    runs = {
        "ours": run("ours", open_ours),
        "ours_fed_by_dataloader": run(
            "ours, fed by the baseline's DataLoader",
            lambda: accuracy.Ours(workload, config.epochs, baseline_data=True),
        ),
        "baseline": run("the baseline", lambda: accuracy.Baseline(workload)),
        "ours_again": run("ours again", open_ours),
    }
    figures, verdict = compare_runs(
        runs["ours"], runs["ours_again"], runs["ours_fed_by_dataloader"], runs["baseline"]
    )
    details = {
        "runs": {name: dataclasses.asdict(run) for name, run in runs.items()},
        "limit": config.limit,
    }
    content = {"accuracy": config.accuracy} | figures | details | provenance(config.threads)
    lines = [
        describe_run("ours", runs["ours"]),
        describe_run("ours again", runs["ours_again"]),
        describe_run(
            "our network and recipe, fed by the baseline's DataLoader",
            runs["ours_fed_by_dataloader"],
        ),
        describe_run(
            "baseline (torchvision ResNet-18, DataLoader, Adam, fp32, metrics every step)",
            runs["baseline"],
        ),
        verdict,
    ]

    return content, lines


def compare_runs(
    before: AccuracyRun, after: AccuracyRun, fed: AccuracyRun, baseline: AccuracyRun
) -> tuple[dict, str]:
    """Compare the seconds of the runs.

    There is no ratio unless ours reached the accuracy both times.

    Args:
        before: ours, before the baseline.
        after: ours, after the baseline.
        fed: our network and recipe, fed by the baseline's DataLoader.
        baseline: the baseline.

    Returns:
        Seconds and ratios, and a line for the user.
    """
    seconds = (before.seconds + after.seconds) / 2
    reached = before.reached and after.reached
    ratio = baseline.seconds / seconds if reached else None
    figures = {
        "ours": seconds,
        "baseline": baseline.seconds,
        "ratio": ratio,
        "ratio_is_lower_bound": reached and not baseline.reached,
        "ours_reached": reached,
        "ours_fed_by_dataloader": fed.seconds,
    }
    if ratio is None:
        return figures, "ratio baseline / ours: none, as ours did not reach the accuracy"

    bound = "" if baseline.reached else "at least "
    verdict = f"ratio baseline / ours: {bound}{ratio:.0f}x"
    if fed.reached:
        data_path = fed.seconds / seconds
        recipe = baseline.seconds / fed.seconds
        verdict += f"; the data path accounts for {data_path:.1f}x of it, network and recipe for {bound}{recipe:.1f}x"
    return figures, verdict


def describe_run(name: str, run: AccuracyRun) -> str:
    """Return one line on the time and the accuracy of a run."""
    best = f"{run.accuracies[-1]:.2%} after {run.epochs} epochs" if run.accuracies else "no epoch"
    return f"{name}: {run.seconds:.1f} s of training, {best}" + (
        "" if run.reached else ": not reached"
    )


if __name__ == "__main__":
    sys.exit(cli.run(TrainBenchConfig, main))
