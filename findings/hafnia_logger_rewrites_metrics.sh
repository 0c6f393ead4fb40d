#!/usr/bin/env bash
# The Hafnia SDK's logger reads all metrics so far from the disk, and writes all of them again, for each metric.
#
# Version   hafnia 0.8.6.
# Guess     log_scalar appends a row, or collects rows and writes them now and then: its docstring speaks of
#           "all accumulated logs". So the thousandth metric costs what the first one does.
# Behavior  Each call reads experiment.parquet whole, joins one row to it, and writes it whole. What is written for n
#           metrics grows with n squared. Nothing is held in memory, and nothing is gained by fewer, larger steps.
# Output    rows in the file: 2000; written for metrics 1 to 500: 3 MB, for 1501 to 2000: 20 MB
#           (how well the rows compress depends on their times; the check asks for at least twice as much)
# Hurts     A run of 1,000 short epochs with eight metrics each: a third of its time, and growing memory of the
#           Parquet reader. The trainer writes the file once an epoch.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check hafnia==0.8.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import contextlib
import io
from pathlib import Path

import pyarrow.parquet as pq
from hafnia.experiment import HafniaLogger

BLOCK = 500
logger = HafniaLogger(project_name="metrics", log_dir="log")


def written() -> int:
    """Bytes that this process has handed to the system."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["wchar"])


blocks = []
for start in range(0, 4 * BLOCK, BLOCK):
    before = written()
    with contextlib.redirect_stdout(io.StringIO()):
        for step in range(start, start + BLOCK):
            logger.log_scalar("train/loss", 1 / (1 + step), step)
    blocks.append(written() - before)

rows = pq.ParquetFile(next(Path("log").rglob("experiment.parquet"))).metadata.num_rows
print(
    f"rows in the file: {rows}; written for metrics 1 to {BLOCK}: {blocks[0] / 1e6:.0f} MB, "
    f"for {3 * BLOCK + 1} to {4 * BLOCK}: {blocks[-1] / 1e6:.0f} MB"
)
assert rows == 4 * BLOCK
assert blocks[-1] > 2 * blocks[0], blocks
PY
