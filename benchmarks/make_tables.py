"""Write the README's benchmark tables anew from benchmarks/results/*.json: python benchmarks/make_tables.py"""

import json
import sys
from pathlib import Path

from harness import tables

ROOT = Path(__file__).parents[1]
COLUMNS = {"loader": tables.LOADER_COLUMNS["loader"], "img/s": tables.LOADER_COLUMNS["img/s"]} | {
    name: tables.LOADER_COLUMNS[name] for name in ("95 % interval", "first batch", "CPU s per 1k", "MB beyond shards")
}


def loader_block(results: Path) -> str:
    """A table for each dataset, from all results of loader_bench, the fastest first."""
    parts = []
    for path in sorted(results.glob("loader-*.json")):
        rows = json.loads(path.read_text())["rows"]
        for dataset in dict.fromkeys(row["dataset"] for row in rows):
            those = sorted(
                (row for row in rows if row["dataset"] == dataset), key=lambda row: -row["images_per_second"]
            )
            parts += [tables.about(those[0]), tables.format_markdown(list(COLUMNS), tables.format_rows(those, COLUMNS))]
    return "\n\n".join(parts)


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
RATES = ("step, cached batch", "training, fed by resident", "training, fed by dali", "loader resident", "loader dali")


def gpu_block(results: Path) -> str:
    """Of each card: what its trainings reached, and images a second of loaders, step and both."""
    parts = []
    for path in sorted(results.glob("gpu-*.json")):
        found = json.loads(path.read_text())
        rows = found["rows"]
        parts.append(f"{rows[0]['gpu']}, {rows[0]['threads']} CPU cores, torch {rows[0]['versions']['torch']}:")
        parts.append(tables.format_markdown(list(TRAININGS), tables.format_rows(found["trainings"], TRAININGS)))
        rates = {(row["dataset"], row["what"]): row["images_per_second"] for row in rows}
        lines = [
            [dataset, *(f"{rates[dataset, what]:,.0f}" if (dataset, what) in rates else "" for what in RATES)]
            for dataset in dict.fromkeys(row["dataset"] for row in rows)
        ]
        parts.append(tables.format_markdown(["img/s", *RATES], lines))
    return "\n\n".join(parts)


def main(readme: Path = ROOT / "README.md", results: Path = ROOT / "benchmarks/results") -> int:
    blocks = {"loader-bench": loader_block(results), "gpu": gpu_block(results)}
    text = readme.read_text()
    for name, block in blocks.items():
        text = tables.replace_block(text, name, block)
    readme.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
