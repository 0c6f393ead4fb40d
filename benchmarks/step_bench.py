"""Time a step of each network on a CPU at two commits, in turns: python benchmarks/step_bench.py --base COMMIT"""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from harness import tables
from harness.busy_timing import checkout
from harness.cases import say
from harness.intervals import Interval, median_interval, ratio_interval
from harness.options import StepBenchConfig
from harness.provenance import provenance
from harness.step_worker import CASES, IN_BF16
from trainer_classification import cli
from trainer_classification.device import has_bf16_cpu

_WORKER = Path(__file__).parent / "harness/step_worker.py"
_OPERATORS = 5  # that are named
COLUMNS = {
    "step": lambda row: row["case"],
    "before": lambda row: f"{row['before']:.1f} ms" if row["before"] else "",
    "now": lambda row: f"{row['now']:.1f} ms",
    "times as fast": lambda row: (
        f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})" if row["before"] else ""
    ),
    "over fp32 now": lambda row: f"{row['over_fp32']:.2f}",
    "over fp32 before": lambda row: f"{row['over_old_fp32']:.2f}" if row["before"] else "",
}
OPERATOR_COLUMNS = {
    "step": lambda row: row["case"],
    "operators, share of its time": lambda row: ", ".join(
        f"{name.removeprefix('aten::')} {share:.0%}" for name, share in row["operators"].items()
    ),
}
NOTE = (
    "CPU time of one image in one thread, median of the turns; two processes, one for each commit, take turns. The "
    "frozen network is forward only; all others are whole training steps."
)


def main(config: StepBenchConfig) -> int:
    with ExitStack() as stack:
        trees = {"before": config.base} if config.base else {}
        trees["now"] = ""
        workers = {
            name: start(stack, stack.enter_context(checkout(commit)))
            for name, commit in trees.items()
        }
        precisions = ["", IN_BF16] if has_bf16_cpu() else [""]
        rows = [
            row | provenance()
            for case in CASES
            for row in measure(case, precisions, workers, config)
        ]

    title = f"CPU time of one image; {rows[0]['cpu']}; {rows[0]['date']}, against {config.base or 'nothing'}"
    parts = ["# Steps on a CPU", f"## {title}"]
    for columns in (COLUMNS, OPERATOR_COLUMNS):
        tables.print_table(title, list(columns), tables.format_rows(rows, columns))
        parts.append(tables.format_table(rows, columns))
    if config.json:
        tables.write_json(Path(config.json), {"base": config.base, "rows": rows})
    if config.markdown:
        Path(config.markdown).write_text("\n\n".join([*parts, NOTE]) + "\n", encoding="utf-8")
    return 0


def start(stack: ExitStack, tree: Path) -> "subprocess.Popen[str]":
    """Start a process that runs steps with the package of a working tree."""
    environment = os.environ | {"PYTHONPATH": str(tree / "src"), "OMP_WAIT_POLICY": "PASSIVE"}
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, str(_WORKER)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    )
    stack.callback(process.kill)
    return process


def ask(process: "subprocess.Popen[str]", request: str) -> Any:
    """Send a request to a process and return its answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    print(request, file=process.stdin, flush=True)
    return json.loads(process.stdout.readline())


def measure(
    case: str,
    precisions: list[str],
    workers: dict[str, "subprocess.Popen[str]"],
    config: StepBenchConfig,
) -> list[dict[str, Any]]:
    """Return a row of one step for each precision, all measured in turns.

    Args:
        case: of the worker.
        precisions: what follows its name; the first is fp32.
        workers: by commit, "now" and perhaps "before".
        config: of the bench.
    """
    say(case)
    images = CASES[case].rows
    seconds: dict[tuple[str, str], list[float]] = {
        (name, precision): [] for name in workers for precision in precisions
    }
    for _ in range(config.turns):
        for name, precision in seconds:
            taken = ask(workers[name], case + precision)
            seconds[name, precision].append(taken / images)

    return [row_of(case, precision, seconds, workers["now"]) for precision in precisions]


def row_of(
    case: str,
    precision: str,
    seconds: dict[tuple[str, str], list[float]],
    worker: "subprocess.Popen[str]",
) -> dict[str, Any]:
    """Return the row of a step in one precision, compared with the commit before and with fp32."""
    shares = ask(worker, f"operators {case}{precision}")
    largest = sorted(shares, key=shares.__getitem__, reverse=True)[:_OPERATORS]
    now = seconds["now", precision]
    before = seconds.get(("before", precision), [])
    old_fp32 = seconds.get(("before", ""), [])
    ratio = speed_ratio(now, before or now)

    return {
        "case": case + precision,
        "turns": len(now),
        "before": 1000 * median_interval(before).median if before else 0.0,
        "now": 1000 * median_interval(now).median,
        "ratio": ratio.median,
        "low": ratio.low,
        "high": ratio.high,
        "confidence": ratio.confidence,
        "over_fp32": speed_ratio(now, seconds["now", ""]).median,
        "over_old_fp32": speed_ratio(now, old_fp32 or now).median,
        "operators": {name: shares[name] for name in largest},
    }


def speed_ratio(now: list[float], before: list[float]) -> Interval:
    """Return how many times as fast the first are as the second, both measured in turns, in seconds."""
    return ratio_interval([1 / taken for taken in now], [1 / taken for taken in before])


if __name__ == "__main__":
    sys.exit(cli.run(StepBenchConfig, main))
