"""Fail when a loader lost its speed: ratios within one run against their floors. For CI, under two minutes."""

import sys
import tempfile
from pathlib import Path

from harness import cases, regression
from harness import registry
from harness.loader_timing import measure_loaders
from harness.options import LoaderBenchConfig

LOADERS = "resident,ffcv,dali,torch,ffcv-vendor-raw,dali-vendor"


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        registry.share(LOADERS.split(","))
        config = LoaderBenchConfig(loaders=LOADERS, ladder="", device="cpu", scratch=scratch, turns=6, seconds=1.0)
        dataset = cases.select_datasets("", Path(scratch))[-1]  # caltech-101: every engine has work to do
        workload = cases.make_workload(config, dataset)
        names = cases.select_candidates(config.loaders, config.ladder)
        measured = measure_loaders(workload, names, config.seconds, config.turns, False, cases.say)
        rates = {name: [turn.rate for turn in turns] for name, turns in measured.turns.items()}
        found = regression.check_floors(workload.manifest.dataset, rates)
    for name, reason in measured.left_out.items():
        print(f"{name} is left out: {reason}")
    print(*found, sep="\n")
    return 1 if measured.disqualified or not all(finding.kept for finding in found) else 0


if __name__ == "__main__":
    sys.exit(main())
