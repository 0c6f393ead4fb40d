"""Fail when speed was lost: check ratios within one run against floors. For CI, in about 90 s on a quiet machine."""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness import busy_timing, cases, precision_timing, registry, regression, start_timing
from harness.loader_timing import Timing, measure_loaders
from harness.options import LoaderBenchConfig
from trainer_classification.device import has_bf16_cpu

LOADERS = "resident,ffcv,dali,torch,ffcv-vendor-raw,dali-vendor"
TIMING = Timing(seconds=1.0, turns=6)
ROUNDS = 3  # of the start
OTHERS = 8  # processes that spin
STEPS = 40  # of a training beside them
SAMPLE = str(busy_timing.ROOT / "samples/mnist")


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        checks = [*check_commands(Path(scratch)), *check_precision()]
        print(*checks, sep="\n", flush=True)
        loaders, sound = check_loaders(scratch)
    print(*loaders, sep="\n")

    are_kept = [check.kept for check in checks] + [check.kept for check in loaders]
    return 0 if sound and all(are_kept) else 1


def check_commands(scratch: Path) -> Iterator[regression.Limit]:
    """Check the start of train.py, and a training on a busy machine."""
    options = ["--dataset", SAMPLE, "--epochs", "1", "--max-steps-per-epoch", str(STEPS)]
    prepared = scratch / "prepared"
    busy_timing.train(busy_timing.ROOT, options, prepared, 0)  # prepares, and compiles kernels

    environment = os.environ | {"PYTHONPATH": str(busy_timing.ROOT / "src")}
    folders = ["--device", "cpu", "--prepared", str(prepared), "--output-dir", str(scratch)]
    first_step = start_timing.first_step(busy_timing.ROOT, [*options, *folders])
    seconds = [
        [
            start_timing.time_process(arguments, environment).cpu_seconds
            for arguments in (first_step, start_timing.IMPORT_TORCH)
        ]
        for _ in range(ROUNDS)
    ]
    yield regression.check_start(*zip(*seconds, strict=True))

    slept, spun = (
        busy_timing.train(busy_timing.ROOT, options, prepared, OTHERS, spins=spins)
        for spins in (False, True)
    )
    yield regression.check_busy(slept, spun)


def check_precision() -> list[regression.Limit]:
    """Check the precision that auto takes on this CPU, if there is a choice."""
    if not has_bf16_cpu():
        print("Precision of auto is left out: this CPU has no instructions for bf16, so it is fp32")
        return []
    return [regression.check_auto_precision(*precision_timing.time_auto())]


def check_loaders(scratch: str) -> tuple[list[regression.FloorCheck], bool]:
    """Check the ratios between loaders; also return whether all of them deliver what is planned."""
    registry.preload(LOADERS.split(","))
    config = LoaderBenchConfig(loaders=LOADERS, bottleneck="", device="cpu", scratch=scratch)
    # caltech-101: every engine has work to do
    dataset = cases.select_datasets("", Path(scratch))[-1]
    workload = cases.make_workload(config, dataset)
    names = cases.select_candidates(config.loaders, config.bottleneck)
    measured = measure_loaders(workload, names, TIMING, cases.say)
    rates = {name: [turn.rate for turn in turns] for name, turns in measured.turns.items()}
    for name, reason in measured.left_out.items():
        print(f"{name} is left out: {reason}")

    return regression.check_floors(workload.manifest.dataset, rates), not measured.disqualified


if __name__ == "__main__":
    sys.exit(main())
