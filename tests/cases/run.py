"""Run every input of ../shared/cases through the commands and compare what happens with what is right.

    python tests/cases/run.py [--only WORD] [--jobs 2] [--list]

Exit code: 0 all right, 1 a case fails, 2 ../shared/cases is not there. The cases use command lines alone, each in a
folder of its own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import dataset_cases
import image_cases
from workbench import SHARED, Case, TooLongError, Workbench


@dataclass(frozen=True)
class Outcome:
    """What came of a case."""

    case: Case
    passed: bool
    found: str
    seconds: float


def outcome(case: Case) -> Outcome:
    """Run a case; whatever goes wrong in it is an outcome too."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="case-", ignore_cleanup_errors=True) as folder:
        try:
            passed, found = case.check(Workbench(Path(folder), started + case.limit))
        except TooLongError:
            passed, found = False, f"not done after {case.limit:.0f} s"
        except Exception as error:
            passed, found = False, f"the check itself failed: {type(error).__name__}: {error}"
    seconds = time.monotonic() - started
    mark = "pass" if passed else "FAIL"
    print(f"{mark}  {case.name}  ({seconds:.0f} s)", file=sys.stderr, flush=True)
    return Outcome(case, passed, " ".join(found.split()), seconds)


def table(outcomes: list[Outcome]) -> str:
    """Return the outcomes as a table in Markdown."""
    lines = ["| case | expected | found | |", "|---|---|---|---|"]
    for one in outcomes:
        found = one.found.replace("|", "\\|")
        lines.append(f"| {one.case.name} | {one.case.expected} | {found[:240]} | {'pass' if one.passed else 'FAIL'} |")
    return "\n".join(lines)


def main() -> int:
    """Run the cases that the command line asks for, and return the exit code."""
    parser = argparse.ArgumentParser(description="Run the inputs of ../shared/cases and compare with what is right.")
    parser.add_argument("--only", default="", help="run cases whose name holds this word")
    parser.add_argument("--jobs", type=int, default=2, help="cases that run at a time")
    parser.add_argument("--list", action="store_true", help="list the cases and run none")
    args = parser.parse_args()
    cases = [case for case in [*image_cases.CASES, *dataset_cases.CASES] if args.only in case.name]

    if args.list:
        print("\n".join(f"{case.name}: {case.expected}" for case in cases))
        return 0
    if not SHARED.is_dir():
        print(f"The inputs of the cases are not there ({SHARED}), so nothing was checked.", file=sys.stderr)
        return 2

    with ThreadPoolExecutor(args.jobs) as pool:
        outcomes = list(pool.map(outcome, cases))
    print(table(outcomes))
    passed = sum(one.passed for one in outcomes)
    print(f"\n{passed} of {len(outcomes)} cases pass.")
    return 0 if passed == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
