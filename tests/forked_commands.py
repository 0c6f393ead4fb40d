"""Run the trainer's commands many times, each forked from a process that has imported everything.

A command then takes a second instead of five, and a kill at a random moment hits its work, not its imports.
"""

import json
import os
import runpy
import select
import signal
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRAIN = ("--device", "cpu", "--model", "resnet-small", "--batch-size", "64", "--max-steps-per-epoch", "6")
IMPORTS = (
    "trainer_classification.cli",
    "trainer_classification.training.start",
    "trainer_classification.training.train",
    "trainer_classification.preparation.pipeline",
    "trainer_classification.inference.command",
    "trainer_classification.inference.evaluate_command",
    "trainer_classification.exporting.command",
    "hafnia.dataset.hafnia_dataset",
    "numba",
    "onnxruntime",
    "openvino",
    "polars",
    "torchvision",
)


class ForkedCommands:
    """A server process that forks, runs and kills commands."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, folder: Path, *arguments: str, kill_after: float = 600.0) -> tuple[int, float]:
        """Run a script, and kill it and all its processes after some seconds.

        Its stdout and stderr go to `folder/stdout` and `folder/stderr`.

        Args:
            folder: to run in.
            arguments: name of the script and its arguments.
            kill_after: seconds.

        Returns:
            The exit code, -9 after a kill, and the seconds it ran.
        """
        request = {"folder": str(folder), "arguments": [str(text) for text in arguments], "kill_after": kill_after}
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        code, seconds = json.loads(self._server.stdout.readline())
        return code, seconds

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait(10)
        self._server.stdout.close()


def serve() -> None:
    for name in IMPORTS:
        with suppress(ImportError):
            __import__(name)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            execute(request["folder"], request["arguments"])
        code = wait(child, started + request["kill_after"])
        answers.write(json.dumps([code, time.monotonic() - started]) + "\n")
        answers.flush()
    os._exit(0)  # taking apart all that was imported takes longer than a busy machine is waited for


def wait(child: int, deadline: float) -> int:
    descriptor = os.pidfd_open(child)
    ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
    os.close(descriptor)
    if not ready:
        # Its group is itself until it has made its own.
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def execute(folder: str, arguments: list[str]) -> None:
    os.setsid()
    os.chdir(folder)
    for descriptor, name in ((0, os.devnull), (1, "stdout"), (2, "stderr")):
        opened = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    script = str(ROOT / "scripts" / f"{arguments[0]}.py")
    sys.argv = [script, *arguments[1:]]
    code = 1
    try:
        runpy.run_path(script, run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
