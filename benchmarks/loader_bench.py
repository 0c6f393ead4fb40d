"""How many images a second loaders deliver: python benchmarks/loader_bench.py (--help for more)."""

import sys
from pathlib import Path

from harness import cases, tables
from harness.bottleneck import ladder
from harness.fork_server import get_fork_server
from harness.loader_timing import Measured, measure_loaders
from harness.options import LoaderBenchConfig
from harness.registry import CANDIDATES, OURS, share
from harness.targets import project_targets, read_targets
from trainer_classification import cli


def main(config: LoaderBenchConfig) -> int:
    names = cases.select_candidates(config.loaders, config.ladder)
    content = {"rows": [], "left_out": {}, "ladders": {}, "targets": {}}
    disqualified = []
    get_fork_server()  # imports torch while the dataset is prepared
    share(names)
    for dataset in cases.select_datasets(config.dataset, Path(config.scratch)):
        workload = cases.make_workload(config, dataset)
        measured = measure_loaders(workload, names, config.seconds, config.turns, config.cold, cases.say)
        add(content, measured, workload.manifest.dataset)
        disqualified += measured.disqualified
        report(config, content, workload.manifest.dataset)
    if config.json:
        tables.write_json(Path(config.json), content)
    if config.markdown:
        Path(config.markdown).write_text("# Loaders\n\n" + tables.format_loader_page(content))
    return 1 if set(disqualified) & set(OURS) else 0


def add(content: dict, measured: Measured, dataset: str) -> None:
    rows = [row for row in measured.rows if row["loader"] in CANDIDATES]
    rates = {row["loader"]: row["images_per_second"] for row in measured.rows}
    content["rows"] += rows
    content["left_out"][dataset] = measured.left_out
    content["ladders"][dataset] = [str(rungs) for name in OURS if (rungs := ladder(name, rates)) is not None]
    content["targets"][dataset] = [
        {
            "loader": row["loader"],
            "per_core": row["images_per_second"] / row["threads"],
            "host": aim.host.name,
            "images_per_second": aim.images_per_second,
            "projected": True,
            "target": aim.target.images_per_second,
            "derived": aim.target.derived,
            "ratio": aim.ratio,
        }
        for row in rows
        if row["device"] == "cpu" and not row["loader"].startswith("ceiling")
        for aim in project_targets(dataset, row["image_size"], row["images_per_second"], row["threads"])
    ] + consumed(rates, rows)


def consumed(rates: dict, rows: list) -> list:
    """On a GPU nothing is projected: what its training consumes was measured beside the loaders."""
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


def report(config: LoaderBenchConfig, content: dict, dataset: str) -> None:
    rows = [row for row in content["rows"] if row["dataset"] == dataset]
    if not rows:
        return
    tables.show(tables.about(rows[0]), list(tables.LOADER_COLUMNS), tables.format_rows(rows, tables.LOADER_COLUMNS))
    for name, reason in content["left_out"][dataset].items():
        print(f"{name} is left out: {reason}")
    print(*content["ladders"][dataset], sep="\n")
    if content["targets"][dataset]:
        tables.show(tables.TARGETS_TITLE, *tables.make_targets_table(content["targets"][dataset]))
        print(tables.TARGETS_NOTE)
    if config.chart:
        hosts, targets = read_targets()
        fitting = [t for t in targets if (t.dataset, t.image_size) == (dataset, rows[0]["image_size"])]
        lines = {hosts[t.hardware].name + (" (derived)" if t.derived else ""): t.images_per_second for t in fitting}
        path = Path(config.chart)
        tables.save_chart(
            rows,
            lines,
            path if config.dataset and "," not in config.dataset else path.with_stem(f"{path.stem}-{dataset}"),
        )


if __name__ == "__main__":
    sys.exit(cli.run(LoaderBenchConfig, main))
