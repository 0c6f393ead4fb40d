"""What of a training is waiting for data, and how soon it gets there: python benchmarks/train_bench.py"""

import dataclasses
import sys
from pathlib import Path

from harness import bottleneck as ladder
from harness import cases, tables
from harness import registry
from harness import time_to_accuracy as accuracy
from harness.intervals import median_interval, ratio_interval
from harness.loader_timing import measure_loaders
from harness.options import TrainBenchConfig
from harness.provenance import provenance
from trainer_classification import cli

COLUMNS = {
    "input": lambda row: row["input"],
    "step": lambda row: f"{1000 * row['step_seconds']:.2f} ms",
    **tables.RATE_COLUMNS,
    "data-wait": lambda row: f"{row['data_wait_fraction']:.2%}",
    "of synthetic": lambda row: f"{row['of_synthetic']:.3f}",
}
NOTE = (
    "synthetic: the same batch again and again, so no loader at all. data-wait: share of the time spent in asking for "
    "a batch. of synthetic: rate against that, in the same rounds; what is missing to 1 is the loader's share."
)


def main(config: TrainBenchConfig) -> int:
    scratch = Path(config.scratch)
    ready = cases.prepare_dataset(config.dataset, 0, scratch, config.threads)
    workload = cases.workload_from(ready, scratch, 0, config.threads, cases.choose_device(config.device)[0])
    rows, failed = steps(config, workload)
    content = {"rows": rows}
    tables.show(tables.about(rows[0]), list(COLUMNS), tables.format_rows(rows, COLUMNS))
    table = tables.format_markdown(list(COLUMNS), tables.format_rows(rows, COLUMNS))
    text = f"# Training\n\n## {tables.about(rows[0])}\n\n{table}\n\n{NOTE}\n"
    if config.accuracy:
        found, lines = to_accuracy(config, workload)
        content["time_to_accuracy"] = found
        print(*lines, sep="\n")
        text += "\n" + "\n".join(f"- {line}" for line in lines) + "\n"
    if config.json:
        tables.write_json(Path(config.json), content)
    if config.markdown:
        Path(config.markdown).write_text(text)
    return 1 if failed else 0


def steps(config: TrainBenchConfig, workload) -> tuple[list[dict], list[str]]:
    """Step time, data-wait and the share of the loader, in turns."""
    from harness.step_timing import fit_batch_size

    names = [name for name in config.loaders.split(",") if name]
    cases.check_names("--loaders", names, registry.OURS)
    full = [name for name in ladder.names(names) if "full" in name or name == "stage-step"]
    measured = measure_loaders(workload, full, config.seconds, config.turns, False, cases.say)
    for name, reason in measured.left_out.items():
        print(f"{name} is left out: {reason}")
    batch, rows = fit_batch_size(workload).batch_size, []
    synthetic = [turn.rate for turn in measured.turns["stage-step"]]
    for row in measured.rows:
        turns = measured.turns[row["loader"]]
        row |= {
            "input": "synthetic" if row["loader"] == "stage-step" else row["loader"].removeprefix("stage-full-"),
            "network": workload.recipe.model,
            "batch_size": batch,
            "step_seconds": batch / row["images_per_second"],
            "data_wait_fraction": median_interval([turn.waited / turn.seconds for turn in turns]).median,
            "of_synthetic": ratio_interval([turn.rate for turn in turns], synthetic).median,
        }
        rows.append(row)
    return rows, measured.disqualified


def to_accuracy(config: TrainBenchConfig, workload) -> tuple[dict, list[str]]:
    """Ours before and after the baseline, so that drift of the machine shows."""
    device, wanted = workload.where, config.accuracy

    def run(name: str, make, limit: float) -> accuracy.AccuracyRun:
        cases.say(f"training to {wanted:.1%}: {name}")
        training = make()
        try:
            return accuracy.train_to_accuracy(training, wanted, limit, device)
        finally:
            training.close()

    def ours(baseline_data: bool = False) -> accuracy.Ours:
        return accuracy.Ours(workload, config.epochs, baseline_data)

    before = run("ours", ours, config.limit)
    fed = run("ours, fed by the baseline's DataLoader", lambda: ours(True), config.limit)
    baseline = run("the baseline", lambda: accuracy.Baseline(workload), config.limit)
    after = run("ours again", ours, config.limit)
    runs = {"ours": before, "ours_fed_by_dataloader": fed, "baseline": baseline, "ours_again": after}
    figures, verdict = compared(before, after, fed, baseline)
    about = {"runs": {name: dataclasses.asdict(run) for name, run in runs.items()}, "limit": config.limit}
    found = {"accuracy": wanted} | figures | about | provenance(config.threads)
    lines = [
        line("ours", before),
        line("ours again", after),
        line("our network and recipe, fed by the baseline's DataLoader", fed),
        line("baseline (torchvision ResNet-18, DataLoader, Adam, fp32, metrics every step)", baseline),
        verdict,
    ]
    return found, lines


def compared(
    before: accuracy.AccuracyRun, after: accuracy.AccuracyRun, fed: accuracy.AccuracyRun, baseline: accuracy.AccuracyRun
) -> tuple[dict, str]:
    """Seconds and their ratio, and a line on it; there is none where ours did not reach the accuracy both times."""
    seconds, reached = (before.seconds + after.seconds) / 2, before.reached and after.reached
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
        verdict += f"; of it the data path gives {fed.seconds / seconds:.1f}x, "
        verdict += f"network and recipe {bound}{baseline.seconds / fed.seconds:.1f}x"
    return figures, verdict


def line(name: str, run: accuracy.AccuracyRun) -> str:
    best = f"{run.accuracies[-1]:.2%} after {run.epochs} epochs" if run.accuracies else "no epoch"
    return f"{name}: {run.seconds:.1f} s of training, {best}" + ("" if run.reached else ": not reached")


if __name__ == "__main__":
    sys.exit(cli.run(TrainBenchConfig, main))
