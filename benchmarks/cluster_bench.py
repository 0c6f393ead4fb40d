"""Measure what passes through the machine of prepare.py with a cluster: python benchmarks/cluster_bench.py"""

import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from harness import tables
from harness.busy_timing import checkout
from harness.cases import say
from harness.cluster_timing import prepare
from harness.options import ClusterBenchConfig
from harness.provenance import provenance
from harness.workload import repeat_dataset
from trainer_classification import cli


def _megabytes(name: str) -> Any:
    return lambda row: f"{row[name] / 1e6:,.1f}"


COLUMNS = {
    "commit": lambda row: row["what"],
    "MB from the store": _megabytes("from_store"),
    "MB to it": _megabytes("to_store"),
    "MB of the scheduler": _megabytes("scheduler"),
    "MB read": _megabytes("files_read"),
    "MB written": _megabytes("files_written"),
    "MB left": _megabytes("kept"),
    "CPU s": lambda row: f"{row['cpu_seconds']:.1f}",
    "s": lambda row: f"{row['seconds']:.1f}",
}
NOTE = (
    "S3 server (moto), scheduler and workers of Dask run on loopback. prepare.py reaches store and scheduler through a "
    "proxy that counts. MB read and written are those of files, by its calls of read and write, with its imports; MB "
    "left: what its disk holds at the end. CPU s are its own. Medians of the turns, in which the commits alternate."
)


def main(config: ClusterBenchConfig) -> None:
    trees = {"before": config.base} if config.base else {}
    trees["now"] = ""
    dataset = Path(config.dataset).absolute()
    scratch = Path(config.scratch).absolute() / "cluster"
    if config.images:
        dataset = repeat_dataset(dataset, config.images, scratch.with_name("cluster-datasets"))
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    with ExitStack() as stack:
        folders = {name: stack.enter_context(checkout(commit)) for name, commit in trees.items()}
        for turn in range(config.turns):
            for name, tree in folders.items():
                say(f"turn {turn + 1} of {config.turns}: {name}")
                done = prepare(tree, dataset, config.formats, config.workers, scratch)
                turns[name].append(done)

    rows = [
        {"what": f"{name} ({trees[name]})" if trees[name] else name, "turns": config.turns}
        | {key: median(turn[key] for turn in done) for key in done[0]}
        | provenance()
        for name, done in turns.items()
    ]
    title = (
        f"{dataset.name} to {config.formats}, {config.workers} workers; {rows[0]['cpu']}; {rows[0]['date']}, commit "
        f"{rows[0]['commit'] or 'unknown'}"
    )
    tables.print_table(title, list(COLUMNS), tables.format_rows(rows, COLUMNS))
    if config.json:
        tables.write_json(Path(config.json), {"rows": rows})
    if config.markdown:
        page = f"# Cluster\n\n## {title}\n\n{tables.format_table(rows, COLUMNS)}\n\n{NOTE}\n"
        Path(config.markdown).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(cli.run(ClusterBenchConfig, main))
