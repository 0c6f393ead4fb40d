"""Run the trainer's commands many times, each forked from a process that has imported everything.

A command then takes a second instead of five, and a kill at a random moment hits its work, not its imports. So do the
processes of `--processes 2`: they are forked from their launcher.
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
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

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
    """A server process that forks, runs and kills commands.

    Args:
        environment: variables of its own.
    """

    def __init__(self, **environment: str) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )

    def run(
        self,
        folder: Path,
        *arguments: str,
        kill_after: float = 600.0,
        main_alone: bool = False,
        streams: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> tuple[int, float]:
        """Run a script, and kill it and all its processes after some seconds.

        Args:
            folder: to run in.
            arguments: name of the script and its arguments.
            kill_after: seconds.
            main_alone: kill its main process, not those that this has started.
            streams: folder that gets its `stdout` and `stderr`; None: the one it runs in.
            environment: all of its variables; None: those of the server. What Python and libraries read at their
                start is not read again.

        Returns:
            The exit code, -9 after a kill, and the seconds it ran.
        """
        request = {
            "folder": str(folder),
            "arguments": [str(text) for text in arguments],
            "kill_after": kill_after,
            "main_alone": main_alone,
            "streams": str(streams or folder),
            "environment": environment,
        }
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        code, seconds = json.loads(self._server.stdout.readline())
        return code, seconds

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait(60)
        self._server.stdout.close()


def serve() -> None:
    for name in IMPORTS:
        with suppress(ImportError):
            __import__(name)
    from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

    SubprocessHandler._popen = lambda handler, arguments, environment: ForkedRank(arguments, environment)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            execute(request)
        code = wait(child, started + request["kill_after"], request["main_alone"])
        answers.write(json.dumps([code, time.monotonic() - started]) + "\n")
        answers.flush()
    os._exit(0)  # taking apart all that was imported takes longer than a busy machine is waited for


def wait(child: int, deadline: float, main_alone: bool) -> int:
    descriptor = os.pidfd_open(child)
    ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
    os.close(descriptor)
    if not ready:
        for process in [child] if main_alone else [child, *descendants(child)]:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def descendants(process: int) -> list[int]:
    """List the processes that a process has started, and those that these have."""
    with suppress(OSError):
        found = [int(text) for text in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
        return found + [later for child in found for later in descendants(child)]
    return []


class ForkedRank:
    """A process of torch's launcher, with what that uses of `subprocess.Popen`, forked instead of started."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str]) -> None:
        self.args = arguments
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.closerange(3, 4096)  # a new process would not have them, and learn that the launcher has ended
            os.environ.clear()
            os.environ.update(environment)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
            sys.stdout = sys.__stdout__
            sys.stderr = sys.__stderr__
            os.setsid()
            run_script(list(arguments[1:]))

    def poll(self) -> int | None:
        return self.wait(0.0)

    def wait(self, timeout: float | None = None) -> int | None:
        if self.returncode is None:
            descriptor = os.pidfd_open(self.pid)
            ready, _, _ = select.select([descriptor], [], [], timeout)
            os.close(descriptor)
            if ready:
                self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            elif timeout:
                raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def execute(request: dict[str, Any]) -> None:
    os.setsid()
    os.chdir(request["folder"])
    if request["environment"] is not None:
        os.environ.clear()
        os.environ.update(request["environment"])
    streams = request["streams"]
    for descriptor, path in ((0, os.devnull), (1, f"{streams}/stdout"), (2, f"{streams}/stderr")):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    script, *arguments = request["arguments"]
    run_script([str(ROOT / "scripts" / f"{script}.py"), *arguments])


def run_script(arguments: list[str]) -> None:
    """Run a script as Python does, and end this process."""
    sys.argv = arguments
    code = 1
    try:
        runpy.run_path(arguments[0], run_name="__main__")
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
