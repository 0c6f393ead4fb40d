"""A training of many epochs takes no more memory, threads, files, log or time an epoch at its end than at its start."""

import itertools
import os
import re
import statistics
import subprocess
import sys

import pytest

from hardening.conftest import SCALE
from helpers import encoded, noise, write_dataset
from runner import Runner

EPOCHS = round(200 * SCALE)  # 1,000 with HARDENING_COUNT=5


def measure(pid):
    """Resident memory in MB, threads, open files and CPU seconds of a process."""
    with open(f"/proc/{pid}/status") as file:
        status = dict(line.split(":", 1) for line in file)
    with open(f"/proc/{pid}/stat") as file:
        ticks = file.read().rpartition(")")[2].split()[11:13]
    memory = int(status["VmRSS"].split()[0]) / 1024
    return memory, int(status["Threads"]), len(os.listdir(f"/proc/{pid}/fd")), sum(map(int, ticks)) / 100


@pytest.mark.slow
def test_a_thousand_epochs_are_flat(tmp_path):
    rows = [
        {"data": encoded(noise(n, 28, 28)), "label": "ab"[n % 2], "split": split, "width": 28, "height": 28}
        for n, split in enumerate(["train"] * 32 + ["validation"] * 8 + ["test"] * 8)
    ]
    runner = Runner(tmp_path, write_dataset(tmp_path / "tiny", rows, ["a", "b"]))
    command = runner.command("--epochs", str(EPOCHS), "--report-images", "off", "--learning-rate", "0.01")
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=runner.environment
    )
    epochs = (line for line in process.stderr if re.match(rf"epoch \d+/{EPOCHS} ", line))
    seen = [(*measure(process.pid), len(line)) for line in epochs]
    process.stderr.close()
    assert process.wait(60) == 0
    assert len(seen) == EPOCHS

    memory, threads, files, moments, letters = zip(*seen, strict=True)
    quarter = EPOCHS // 4
    seconds = [after - before for before, after in itertools.pairwise(moments)]
    early, late = (statistics.median(part) for part in (seconds[quarter : 2 * quarter], seconds[-quarter:]))
    print(
        f"{EPOCHS} epochs: {memory[quarter]:.0f} to {memory[-1]:.0f} MB, {threads[quarter]} to {threads[-1]} threads, "
        f"{files[quarter]} to {files[-1]} files, {1000 * early:.0f} to {1000 * late:.0f} ms of CPU an epoch",
        file=sys.stderr,
    )
    # The rows of an epoch take 2 KB. An SDK that writes its file at each metric adds 40 KB.
    assert memory[-1] < memory[quarter] + 8 + 0.01 * (EPOCHS - quarter)
    # Some are there only while an epoch is written.
    assert threads[-1] <= threads[quarter] + 3
    assert files[-1] <= files[quarter] + 3
    assert max(letters[quarter:]) <= max(letters[:quarter]) + 10
    assert late < 1.5 * early + 0.01
