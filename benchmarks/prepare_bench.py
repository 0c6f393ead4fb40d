"""Measure how fast prepare is, against FFCV's writer: python benchmarks/prepare_bench.py --dataset FOLDER"""

import os
import shutil
import sys
from functools import partial
from pathlib import Path

from harness import cases, prepare_timing, registry, tables
from harness.intervals import ratio_interval
from harness.measure import Turn, interleave, summarize
from harness.options import PrepareBenchConfig
from harness.provenance import provenance
from harness.worker_client import WorkerClient
from harness.workload import as_arguments, repeat_dataset
from trainer_classification import cli
from trainer_classification.device import choose_device
from trainer_classification.environment import cpu_count

COLUMNS = {
    "writer": lambda row: row["writer"],
    **tables.RATE_COLUMNS,
    "CPU s per 1k": lambda row: f"{row['cpu_seconds_per_1k']:.3f}",
}
START = "harness.prepare_timing:start"
# The requirements: (a, b, least a / b).
RATIOS = [
    ("array", "ffcv-raw", 4),
    ("beton-raw", "ffcv-raw", 2),
    ("beton-jpg", "ffcv-jpg", 2),
    ("tar", "ffcv-jpg", 4),
]
SINGLE_FORMATS = ("array", "beton-jpg", "tar")


def main(config: PrepareBenchConfig) -> None:
    dataset = config.dataset
    if config.images:
        dataset = str(
            repeat_dataset(Path(dataset), config.images, Path(config.scratch) / "samples")
        )
    turns = measure_writers(config, dataset, select_writers(config))
    rows = [
        {"dataset": Path(dataset).name, "writer": name, "images": done[0].images}
        | summarize(done)
        | provenance(config.threads)
        for name, done in turns.items()
    ]
    title = (
        f"{rows[0]['dataset']}, {rows[0]['images']:,} images; {rows[0]['cpu']}; {rows[0]['date']}"
    )
    tables.print_table(title, list(COLUMNS), tables.format_rows(rows, COLUMNS))
    ratios = format_ratios(turns)
    print(*ratios, sep="\n")

    if config.json:
        tables.write_json(Path(config.json), {"rows": rows, "ratios": ratios})
    if config.markdown:
        table = tables.format_table(rows, COLUMNS)
        lines = "\n".join(f"- {line}" for line in ratios)
        Path(config.markdown).write_text(f"# Prepare\n\n## {title}\n\n{table}\n\n{lines}\n")


def select_writers(config: PrepareBenchConfig) -> list[str]:
    """Return the writers that the options name and that are installed."""
    known = [*prepare_timing.OURS, *prepare_timing.THEIRS]
    names = cases.split_names(config.writers) or known
    cases.check_names("--writers", names, known)
    if not registry.installed(("ffcv",)):
        print("FFCV's writer is left out: it is not installed (uv sync --extra ffcv)")
        names = [name for name in names if name in prepare_timing.OURS]
    return names


def measure_writers(
    config: PrepareBenchConfig, dataset: str, names: list[str]
) -> dict[str, list[Turn]]:
    """Time each writer in a process of its own.

    Each writes the whole dataset once before it is timed, which fills the page
    cache and starts its worker processes.
    """
    scratch = Path(config.scratch)
    threads = config.threads or cpu_count()
    prepared = cases.prepare_dataset(dataset, 0, scratch, threads)
    workload = cases.describe_workload(prepared, scratch, 0, threads, choose_device("cpu")[0])
    arguments = {"dataset": dataset, "workload": as_arguments(workload), "threads": threads}
    folders = {name: scratch.absolute() / "written" / name for name in names}

    workers = {}
    try:
        for name in names:
            cases.say(f"opening {name}")
            details = arguments | {"name": name, "folder": str(folders[name])}
            workers[name] = WorkerClient(name, START, details, workload.folder(f"{name}.log"))
            workers[name].answer()
            workers[name].ask("first")
        cases.say("timing in turns: " + ", ".join(workers))
        takers = {
            name: partial(take_turn, worker, folders[name]) for name, worker in workers.items()
        }
        return interleave(takers, config.seconds, config.turns)
    finally:
        for worker in workers.values():
            worker.end()


def take_turn(worker: WorkerClient, folder: Path) -> Turn:
    """Write once, into an empty folder on an idle disk, so that no writer waits for the files of another."""
    shutil.rmtree(folder, ignore_errors=True)
    os.sync()
    return worker.turn(0.001)


def format_ratios(turns: dict[str, list[Turn]]) -> list[str]:
    """Return one line for each requirement whose writers were measured."""
    rates = {name: [turn.rate for turn in done] for name, done in turns.items()}
    lines = []
    for ours, theirs, least in RATIOS:
        if ours in rates and theirs in rates:
            ratio = ratio_interval(rates[ours], rates[theirs])
            measured = f"{ratio.median:.2f}x ({ratio.low:.2f} to {ratio.high:.2f})"
            lines.append(f"{ours} / {theirs}: {measured}, required: {least}x")

    single = [name for name in SINGLE_FORMATS if name in rates]
    if "all" in rates and single:
        slowest = min(single, key=lambda name: summarize(turns[name])["images_per_second"])
        cost = ratio_interval(rates[slowest], rates["all"])
        lines.append(
            f"all three formats take {cost.median:.2f}x ({cost.low:.2f} to {cost.high:.2f}) the time of the slowest "
            f"one ({slowest}), required: below 1.4x"
        )
    return lines


if __name__ == "__main__":
    sys.exit(cli.run(PrepareBenchConfig, main))
