"""Write the tables of docs/benchmarks.md from benchmarks/results/*.json: python benchmarks/make_tables.py"""

import json
import sys
from pathlib import Path

from harness import tables

ROOT = Path(__file__).parents[1]
_README_COLUMNS = (
    "loader",
    "img/s",
    "95 % interval",
    "first batch",
    "CPU s per 1k",
    "MB beyond shards",
)
COLUMNS = {name: tables.LOADER_COLUMNS[name] for name in _README_COLUMNS}
TRAININGS = {
    "trained on": lambda row: row["dataset"],
    "options": lambda row: "" if row["options"] == "none" else f"`{row['options']}`",
    "step": lambda row: (
        f"{row['precision'].replace('float', 'fp').replace('bfp', 'bf')}"
        + (", one CUDA graph" if row["compile"] == "graph" else "")
    ),
    "test accuracy": lambda row: f"{row['accuracy_test']:.2%}",
    "training": lambda row: f"{row['seconds_training']:.1f} s",
    "with start, test and report": lambda row: f"{row['seconds_total']:.1f} s",
}
RATES = (
    "step, cached batch",
    "training, fed by resident",
    "training, fed by dali",
    "loader resident",
    "loader dali",
)


def format_loaders(results: Path) -> str:
    """Format one table per dataset from all results of loader_bench, the fastest loader first."""
    parts = []
    for path in sorted(results.glob("loader-*.json")):
        rows = tables.read_loader_results(path)["rows"]
        for dataset in dict.fromkeys(row["dataset"] for row in rows):
            of_dataset = [row for row in rows if row["dataset"] == dataset]
            of_dataset.sort(key=lambda row: -row["images_per_second"])
            parts += [tables.describe_rows(of_dataset[0]), tables.format_table(of_dataset, COLUMNS)]
    return "\n\n".join(parts)


def format_gpus(results: Path) -> str:
    """Format, for each card, the accuracies of its trainings and the rates of loaders, step and both together."""
    parts = []
    for path in sorted(results.glob("gpu-*.json")):
        content = json.loads(path.read_text())
        rows = content["rows"]
        parts.append(
            f"{rows[0]['gpu']}, {rows[0]['threads']} CPU cores, torch {rows[0]['versions']['torch']}:"
        )
        parts.append(tables.format_table(content["trainings"], TRAININGS))
        rates = {(row["dataset"], row["what"]): row["images_per_second"] for row in rows}
        lines = [
            [
                dataset,
                *(
                    f"{rates[dataset, what]:,.0f}" if (dataset, what) in rates else ""
                    for what in RATES
                ),
            ]
            for dataset in dict.fromkeys(row["dataset"] for row in rows)
        ]
        parts.append(tables.format_markdown(["img/s", *RATES], lines))

    return "\n\n".join(parts)


def write_tables(page: Path, results: Path) -> None:
    """Replace the tables in a file between their markers."""
    text = page.read_text()
    text = tables.replace_block(text, "loader-bench", format_loaders(results))
    text = tables.replace_block(text, "gpu", format_gpus(results))
    page.write_text(text)


def write_pages(results: Path) -> None:
    """Write the page of each result of loader_bench."""
    for path in results.glob("loader-*.json"):
        path.with_suffix(".md").write_text(
            tables.format_loader_page(tables.read_loader_results(path))
        )


def main(
    page: Path = ROOT / "docs/benchmarks.md", results: Path = ROOT / "benchmarks/results"
) -> int:
    write_tables(page, results)
    write_pages(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
