"""Measure what a training keeps of its fair share on a busy machine: python benchmarks/busy_bench.py --base COMMIT"""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from harness import tables
from harness.busy_timing import checkout, fair_share, train
from harness.cases import say
from harness.intervals import median_interval
from harness.options import BusyBenchConfig
from harness.provenance import provenance
from trainer_classification import cli
from trainer_classification.environment import other_threads

LEAST = 0.7  # of the fair share
COLUMNS = {
    "commit": lambda row: row["what"],
    "quiet": lambda row: f"{row['quiet']:,.0f} img/s",
    "busy": lambda row: f"{row['busy']:,.0f} img/s",
    "fair share": lambda row: f"{row['fair']:,.0f} img/s",
    "kept": lambda row: f"{row['kept']:.2f} ({row['low']:.2f} to {row['high']:.2f})",
}
NOTE = (
    "Each turn trains once alone and once beside the other processes, which start with the first step. The fair share "
    "is the rate of the training alone, times the part of the cores that its compute threads would get if all threads "
    "that run got the same. kept: busy / fair share, median of the turns and interval."
)


def main(config: BusyBenchConfig) -> int:
    trees = {"before": config.base} if config.base else {}
    trees["now"] = ""
    scratch = Path(config.scratch).absolute() / "busy"
    options = ["--dataset", config.dataset, "--epochs", "1"]
    options += ["--max-steps-per-epoch", str(config.steps)]
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in trees}
    others_before = other_threads()
    with ExitStack() as stack:
        folders = {name: stack.enter_context(checkout(commit)) for name, commit in trees.items()}
        for name, tree in folders.items():
            train(tree, options, scratch / name, 0)  # prepares, and compiles kernels
        for turn in range(config.turns):
            for name, tree in folders.items():
                say(f"turn {turn + 1} of {config.turns}: {name}")
                quiet, busy = (
                    train(tree, options, scratch / name, others) for others in (0, config.others)
                )
                rates[name].append((quiet, busy))

    rows = [
        summarize(name, trees[name], pairs, config)
        | {"threads_of_others": others_before}
        | provenance()
        for name, pairs in rates.items()
    ]
    title = describe(rows[-1])
    tables.print_table(title, list(COLUMNS), tables.format_rows(rows, COLUMNS))
    if config.json:
        tables.write_json(Path(config.json), {"rows": rows})
    if config.markdown:
        page = f"# Busy machine\n\n## {title}\n\n{tables.format_table(rows, COLUMNS)}\n\n{NOTE}\n"
        Path(config.markdown).write_text(page, encoding="utf-8")
    return 0 if rows[-1]["kept"] >= LEAST else 1


def summarize(
    name: str, commit: str, pairs: list[tuple[float, float]], config: BusyBenchConfig
) -> dict[str, Any]:
    """Return the row of one commit, from the rates alone and beside the others."""
    fair = fair_share(config.others)
    kept = median_interval([busy / (fair * quiet) for quiet, busy in pairs])
    quiet = median_interval([quiet for quiet, _ in pairs]).median
    return {
        "what": f"{name} ({commit})" if commit else name,
        "dataset": config.dataset,
        "others": config.others,
        "steps": config.steps,
        "turns": len(pairs),
        "quiet": quiet,
        "busy": median_interval([busy for _, busy in pairs]).median,
        "fair": fair * quiet,
        "kept": kept.median,
        "low": kept.low,
        "high": kept.high,
        "confidence": kept.confidence,
    }


def describe(row: dict[str, Any]) -> str:
    """Return one line that says what the rows measured, where and when."""
    return (
        f"{Path(row['dataset']).name}, {row['steps']} steps beside {row['others']} spinning processes; {row['cpu']}; "
        f"{row['date']}, commit {row['commit'] or 'unknown'}, {row['threads_of_others']} threads of others at the start"
    )


if __name__ == "__main__":
    sys.exit(cli.run(BusyBenchConfig, main))
