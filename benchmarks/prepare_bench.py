"""How fast prepare is, against FFCV's writer: python benchmarks/prepare_bench.py --dataset FOLDER"""

import os
import shutil
import sys
from pathlib import Path

from harness import cases, tables
from harness import prepare_timing as preparing
from harness import registry
from harness.intervals import ratio_interval
from harness.measure import Turn, summarize, interleave
from harness.options import PrepareBenchConfig
from harness.provenance import provenance
from harness.worker_client import WorkerClient
from harness.workload import as_arguments, repeat_dataset
from trainer_classification import cli
from trainer_classification.environment import cpu_count

COLUMNS = {
    "writer": lambda row: row["writer"],
    **tables.RATE_COLUMNS,
    "CPU s per 1k": lambda row: f"{row['cpu_seconds_per_1k']:.3f}",
}
START = "harness.prepare_timing:start"
# What is asked for: (a, b, at least a / b).
RATIOS = [("array", "ffcv-raw", 4), ("beton-raw", "ffcv-raw", 2), ("beton-jpg", "ffcv-jpg", 2), ("tar", "ffcv-jpg", 4)]


def main(config: PrepareBenchConfig) -> None:
    scratch = Path(config.scratch)
    dataset = config.dataset
    if config.images:
        dataset = str(repeat_dataset(Path(dataset), config.images, scratch / "samples"))
    turns = measured(config, dataset, chosen(config))
    rows = [
        {"dataset": Path(dataset).name, "writer": name, "images": done[0].images}
        | summarize(done)
        | provenance(config.threads)
        for name, done in turns.items()
    ]
    where = f"{rows[0]['dataset']}, {rows[0]['images']:,} images; {rows[0]['cpu']}; {rows[0]['date']}"
    tables.show(where, list(COLUMNS), tables.format_rows(rows, COLUMNS))
    found = ratios(turns)
    print(*found, sep="\n")
    if config.json:
        tables.write_json(Path(config.json), {"rows": rows, "ratios": found})
    if config.markdown:
        table = tables.format_markdown(list(COLUMNS), tables.format_rows(rows, COLUMNS))
        lines = "\n".join(f"- {line}" for line in found)
        Path(config.markdown).write_text(f"# Prepare\n\n## {where}\n\n{table}\n\n{lines}\n")


def chosen(config: PrepareBenchConfig) -> list[str]:
    known = [*preparing.OURS, *preparing.THEIRS]
    names = [name for name in config.writers.split(",") if name] or known
    if unknown := set(names) - set(known):
        raise ValueError(f"--writers has {', '.join(sorted(unknown))}, but may list: {', '.join(known)}.")
    if not registry.installed(("ffcv",)):
        print("FFCV's writer is left out: it is not installed (uv sync --extra ffcv)")
        names = [name for name in names if name in preparing.OURS]
    return names


def measured(config: PrepareBenchConfig, dataset: str, names: list[str]) -> dict:
    """Each in a process of its own; one whole prepare before the clock, for the page cache and the worker pools."""
    scratch, threads = Path(config.scratch), config.threads or cpu_count()
    ready = cases.prepare_dataset(dataset, 0, scratch, threads)
    workload = cases.workload_from(ready, scratch, 0, threads, cases.choose_device("cpu")[0])
    common = {"dataset": dataset, "workload": as_arguments(workload), "threads": threads}
    children, folders = {}, {name: scratch.absolute() / "written" / name for name in names}
    try:
        for name in names:
            cases.say(f"opening {name}")
            arguments = common | {"name": name, "folder": str(folders[name])}
            child = WorkerClient(name, START, arguments, workload.folder(f"{name}.log"))
            children[name] = child
            child.answer()
            child.ask("first")
        cases.say("timing in turns: " + ", ".join(children))
        takers = {name: (lambda name=name: turn(children[name], folders[name])) for name in children}
        return interleave(takers, config.seconds, config.turns)
    finally:
        for child in children.values():
            child.end()


def turn(child: WorkerClient, folder: Path) -> Turn:
    """Write once, into an empty folder on an idle disk: nobody waits for what another has written or deletes it."""
    shutil.rmtree(folder, ignore_errors=True)
    os.sync()
    return child.turn(0.001)


def ratios(turns: dict) -> list[str]:
    rates = {name: [turn.rate for turn in done] for name, done in turns.items()}
    lines = []
    for ours, theirs, least in RATIOS:
        if ours in rates and theirs in rates:
            ratio = ratio_interval(rates[ours], rates[theirs])
            line = f"{ours} / {theirs}: {ratio.median:.2f}x ({ratio.low:.2f} to {ratio.high:.2f}), asked for: {least}x"
            lines.append(line)
    single = [name for name in ("array", "beton-jpg", "tar") if name in rates]
    if "all" in rates and single:
        slowest = min(single, key=lambda name: summarize(turns[name])["images_per_second"])
        cost = ratio_interval(rates[slowest], rates["all"])
        lines.append(
            f"all three take {cost.median:.2f}x ({cost.low:.2f} to {cost.high:.2f}) the time of the slowest alone "
            f"({slowest}), asked for: below 1.4x"
        )
    return lines


if __name__ == "__main__":
    sys.exit(cli.run(PrepareBenchConfig, main))
