"""Fail when a loader has lost its speed: check ratios within one run against floors. For CI, in under two minutes."""

import sys
import tempfile
from pathlib import Path

from harness import cases, registry, regression
from harness.loader_timing import Timing, measure_loaders
from harness.options import LoaderBenchConfig

LOADERS = "resident,ffcv,dali,torch,ffcv-vendor-raw,dali-vendor"
TIMING = Timing(seconds=1.0, turns=6)


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        registry.preload(LOADERS.split(","))
        config = LoaderBenchConfig(loaders=LOADERS, bottleneck="", device="cpu", scratch=scratch)
        dataset = cases.select_datasets("", Path(scratch))[
            -1
        ]  # caltech-101: every engine has work to do
        workload = cases.make_workload(config, dataset)
        names = cases.select_candidates(config.loaders, config.bottleneck)
        measured = measure_loaders(workload, names, TIMING, cases.say)
        rates = {name: [turn.rate for turn in turns] for name, turns in measured.turns.items()}
        checks = regression.check_floors(workload.manifest.dataset, rates)

    for name, reason in measured.left_out.items():
        print(f"{name} is left out: {reason}")
    print(*checks, sep="\n")

    return 1 if measured.disqualified or not all(check.kept for check in checks) else 0


if __name__ == "__main__":
    sys.exit(main())
