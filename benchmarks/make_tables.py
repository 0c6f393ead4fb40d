"""Write the README's benchmark tables anew from benchmarks/results/*.json: python benchmarks/make_tables.py"""

import json
import sys
from pathlib import Path

from trainer_classification.bench import tables

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
            parts += [tables.about(those[0]), tables.markdown(list(COLUMNS), tables.cells(those, COLUMNS))]
    return "\n\n".join(parts)


def main(readme: Path = ROOT / "README.md", results: Path = ROOT / "benchmarks/results") -> int:
    readme.write_text(tables.replace_block(readme.read_text(), "loader-bench", loader_block(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
