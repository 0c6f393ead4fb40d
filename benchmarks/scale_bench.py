"""Measure what each image costs in datasets of all sizes: python benchmarks/scale_bench.py (--help for its options)"""

import math
import sys
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from harness import cases, tables
from harness.options import ScaleBenchConfig
from harness.provenance import provenance
from harness.scale_stages import STAGES, measure_stage
from trainer_classification import cli

MAX_EXPONENT = 1.1
NOTE = (
    "CPU us and bytes an image: of one process, at each number of images; bytes are what the stage adds to the "
    "memory of the process at its peak, without its input. Exponent: of the CPU time, fitted over the numbers of "
    f"images; 1 is a straight line, and more than {MAX_EXPONENT} fails."
)


def main(config: ScaleBenchConfig) -> int:
    counts = parse_counts(config.images)
    names = cases.split_names(config.stages) or list(STAGES)
    cases.check_names("--stages", names, list(STAGES))

    rows = []
    for name in names:
        cases.say(f"{name}: {', '.join(f'{count:,}' for count in counts)} images")
        rows.append(measure(name, counts, config) | provenance())
    columns = make_columns(counts)
    title = f"Cost of an image; {rows[0]['cpu']}; {rows[0]['date']}, commit {rows[0]['commit'] or 'unknown'}"
    tables.print_table(title, list(columns), tables.format_rows(rows, columns))
    verdicts = [judge(row) for row in rows]
    print(*verdicts, sep="\n")

    if config.json:
        tables.write_json(Path(config.json), {"rows": rows, "verdicts": verdicts})
    if config.markdown:
        table = tables.format_table(rows, columns)
        listed = "\n".join(f"- {line}" for line in verdicts)
        Path(config.markdown).write_text(
            f"# Scale\n\n## {title}\n\n{table}\n\n{listed}\n\n{NOTE}\n"
        )
    return 0 if all(holds(row) for row in rows) else 1


def parse_counts(text: str) -> list[int]:
    """Return the numbers of images, ascending.

    Raises:
        ValueError: there are fewer than two, or one is no number.
    """
    names = cases.split_names(text)
    if not all(name.isdigit() and int(name) > 0 for name in names) or len(set(names)) < 2:
        raise ValueError(
            f"--images is {text!r}, but must list two numbers or more, such as 16000,256000."
        )
    return sorted(map(int, names))


def measure(name: str, counts: list[int], config: ScaleBenchConfig) -> dict:
    """Measure a stage for each number of images, in a fresh process each, and fit the exponent."""
    folder = Path(config.scratch).absolute() / "scale"
    costs = []
    for count in counts:
        with get_context("spawn").Pool(1) as pool:
            arguments = (name, count, str(folder), config.turns)
            costs.append(pool.apply(measure_stage, arguments))
    seconds = [cost.cpu_seconds for cost in costs]
    return {
        "stage": name,
        "images": counts,
        "cpu_seconds": seconds,
        "peak_bytes": [cost.peak_bytes for cost in costs],
        "exponent": fit_exponent(counts, seconds),
    }


def fit_exponent(counts: list[int], seconds: list[float]) -> float:
    """Return b of seconds = a * count**b, by least squares of the logarithms."""
    positive = [max(value, 1e-6) for value in seconds]
    return float(np.polyfit(np.log(counts), np.log(positive), 1)[0])


def make_columns(counts: list[int]) -> tables.Columns:
    """Return the columns of the table, two for each number of images."""

    def cpu(number: int, count: int):
        return lambda row: f"{1e6 * row['cpu_seconds'][number] / count:.3g}"

    def memory(number: int, count: int):
        return lambda row: f"{row['peak_bytes'][number] / count:,.0f}"

    columns = {"stage": lambda row: row["stage"]}
    columns |= {f"us at {count:,}": cpu(number, count) for number, count in enumerate(counts)}
    columns |= {f"bytes at {count:,}": memory(number, count) for number, count in enumerate(counts)}
    return columns | {"exponent": lambda row: f"{row['exponent']:.2f}"}


def holds(row: dict) -> bool:
    return not math.isnan(row["exponent"]) and row["exponent"] <= MAX_EXPONENT


def judge(row: dict) -> str:
    """Return one line that says whether a stage grows no faster than its images."""
    verdict = "holds" if holds(row) else "MISSED"
    return f"{row['stage']}: exponent {row['exponent']:.2f}, required: at most {MAX_EXPONENT}: {verdict}"


if __name__ == "__main__":
    sys.exit(cli.run(ScaleBenchConfig, main))
