"""Measure how many images a second loaders deliver: python benchmarks/loader_bench.py (--help for its options)."""

import sys
import textwrap
from pathlib import Path
from typing import Any

from harness import cases, tables
from harness.bottleneck import find_bottleneck
from harness.engines import OURS
from harness.fork_server import get_fork_server
from harness.loader_timing import Measured, Timing, measure_loaders
from harness.options import LoaderBenchConfig
from harness.registry import CANDIDATES, REFERENCE_RATES, preload
from harness.targets import project_targets, read_targets
from trainer_classification import cli


def main(config: LoaderBenchConfig) -> int:
    names = cases.select_candidates(config.loaders, config.bottleneck)
    timing = Timing(config.seconds, config.turns, config.cold)
    content: dict[str, Any] = {"rows": [], "left_out": {}, "bottlenecks": {}, "targets": {}}
    disqualified = []

    get_fork_server()  # imports torch while the dataset is prepared
    preload(names)
    for dataset in cases.select_datasets(config.dataset, Path(config.scratch)):
        workload = cases.make_workload(config, dataset)
        measured = measure_loaders(workload, names, timing, cases.say)
        disqualified += measured.disqualified
        add_results(content, measured, workload.manifest.dataset)
        print_results(content, workload.manifest.dataset)
        if config.chart:
            save_chart(config, content, workload.manifest.dataset)

    if config.json:
        tables.write_json(Path(config.json), content)
    if config.markdown:
        Path(config.markdown).write_text(tables.format_loader_page(content))
    return 1 if set(disqualified) & set(OURS) else 0


def add_results(content: dict, measured: Measured, dataset: str) -> None:
    """Add the results of one dataset to the content of the JSON file."""
    rows = [row for row in measured.rows if row["loader"] in CANDIDATES]
    rates = {row["loader"]: row["images_per_second"] for row in measured.rows}
    bottlenecks = [find_bottleneck(name, rates) for name in OURS]
    content["rows"] += rows
    content["left_out"][dataset] = measured.left_out
    content["bottlenecks"][dataset] = [str(found) for found in bottlenecks if found is not None]
    content["targets"][dataset] = compare_with_targets(dataset, rows) + compare_with_training(
        rates, rows
    )


def compare_with_targets(dataset: str, rows: list[dict]) -> list[dict]:
    """Compare the rates on a CPU, projected to each host, with what the host's GPUs consume."""
    return [
        {
            "loader": row["loader"],
            "per_core": row["images_per_second"] / row["threads"],
            "host": projection.host.name,
            "images_per_second": projection.images_per_second,
            "projected": True,
            "target": projection.target.images_per_second,
            "derived": projection.target.derived,
            "ratio": projection.ratio,
        }
        for row in rows
        if row["device"] == "cpu" and row["loader"] not in REFERENCE_RATES
        for projection in project_targets(
            dataset, row["image_size"], row["images_per_second"], row["threads"]
        )
    ]


def compare_with_training(rates: dict, rows: list[dict]) -> list[dict]:
    """Compare the rates on a GPU with what its training consumes, which was measured beside the loaders."""
    if not rows or rows[0]["device"] == "cpu" or "stage-step" not in rates:
        return []
    return [
        {
            "loader": row["loader"],
            "per_core": row["images_per_second"] / row["threads"],
            "host": row["gpu"],
            "images_per_second": row["images_per_second"],
            "projected": False,
            "target": rates["stage-step"],
            "derived": False,
            "ratio": row["images_per_second"] / rates["stage-step"],
        }
        for row in rows
    ]


def print_results(content: dict, dataset: str) -> None:
    """Print the tables of one dataset."""
    rows = [row for row in content["rows"] if row["dataset"] == dataset]
    if not rows:
        return
    columns = tables.TERMINAL_COLUMNS
    tables.print_table(
        tables.describe_rows(rows[0]), list(columns), tables.format_rows(rows, columns)
    )
    for name, reason in content["left_out"][dataset].items():
        print(f"{name} is left out: {reason}")
    print(*content["bottlenecks"][dataset], sep="\n")
    if content["targets"][dataset]:
        tables.print_table(
            tables.TARGETS_TITLE, *tables.make_targets_table(content["targets"][dataset])
        )
        print(textwrap.fill(tables.TARGETS_NOTE, tables.TERMINAL_WIDTH))


def save_chart(config: LoaderBenchConfig, content: dict, dataset: str) -> None:
    """Draw the chart of one dataset.

    With several datasets, its file name gets the dataset's.
    """
    rows = [row for row in content["rows"] if row["dataset"] == dataset]
    if not rows:
        return
    hosts, targets = read_targets()
    lines = {
        hosts[target.hardware].name
        + (" (derived)" if target.derived else ""): target.images_per_second
        for target in targets
        if (target.dataset, target.image_size) == (dataset, rows[0]["image_size"])
    }
    path = Path(config.chart)
    if not config.dataset or "," in config.dataset:
        path = path.with_stem(f"{path.stem}-{dataset}")
    tables.save_chart(rows, lines, path)


if __name__ == "__main__":
    sys.exit(cli.run(LoaderBenchConfig, main))
