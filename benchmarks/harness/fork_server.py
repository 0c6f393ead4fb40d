"""Run a process that has imported what every candidate needs, and fork each candidate's worker from it.

Importing torch takes a core several seconds, and a benchmark has up to twenty
candidates. They are not forked from the benchmark's own process, since the
threads of torch, polars and numba do not survive that. The fork server of
multiprocessing cannot serve either: a process has one, and `prepare` uses it.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

_REQUIRED = ("harness.registry", "harness.worker")
# Imported where what they need is installed. torch._dynamo is for the first
# optimizer. ffcv is left out, since its import sets torch and numba to one
# thread, and so is DALI, which must not touch a GPU before the fork.
_OPTIONAL = (
    "numba",
    "torchvision",
    "torch._dynamo",
    "PIL.Image",
    *(
        f"harness.{name}"
        for name in (
            "vendor_defaults",
            "other_libraries",
            "own_loaders",
            "stages",
            "reference_rates",
            "step_timing",
        )
    ),
    *(
        f"trainer_classification.loaders.{name}"
        for name in ("resident", "ffcv", "dali", "torch_dataloader")
    ),
)
_MAX_REQUEST = 4096  # bytes


class ForkServer:
    """Start the fork server and send it requests.

    Attributes:
        pid: process id of the fork server.
    """

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
            command = [sys.executable, "-m", __name__, str(theirs.fileno())]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, env=environment, pass_fds=(theirs.fileno(),)
            )
        self.pid = self._process.pid

    def fork(self, spec: str, files: Sequence[int]) -> int:
        """Start a worker.

        Args:
            spec: see `worker.Server`.
            files: descriptors of the worker's stdin, of the pipe for its answers,
                and of its log.

        Returns:
            The worker's process id.

        Raises:
            RuntimeError: the fork server has ended.
        """
        return self._ask(spec, files)

    def wait(self, pid: int) -> int:
        """Wait until a worker ends.

        Returns its exit code, or minus the signal that ended it.
        """
        return self._ask(str(pid), ())

    def preload(self, spec: str) -> None:
        """Run "module:function" in the fork server, so that later workers find it done. Does not wait for it."""
        self._socket.send(spec.encode())

    def end(self) -> None:
        """End the fork server and wait for its end.

        Workers that still run go on.
        """
        self._socket.close()
        self._process.wait()

    def _ask(self, request: str, files: Sequence[int]) -> int:
        socket.send_fds(self._socket, [request.encode()], files)
        answer = self._socket.recv(_MAX_REQUEST)
        if not answer:
            raise RuntimeError(f"The fork server ended with code {self._process.wait()}.")
        return int(answer)


@functools.cache
def get_fork_server() -> ForkServer:
    """Return the only fork server, and start it at the first call.

    It ends with this process at the latest.
    """
    return ForkServer()


def serve(requests: socket.socket) -> None:
    """Fork workers and wait for them, as requested, until the benchmark has gone."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C ends the workers, and the benchmark waits for that
    for name in _REQUIRED:
        importlib.import_module(name)
    for name in _OPTIONAL:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()  # no collection writes to the pages that all workers share

    while True:
        request, files, _, _ = socket.recv_fds(requests, _MAX_REQUEST, 3)
        if not request:
            return
        if files:
            answer = os.fork() or _become_worker(requests, request.decode(), files)
            for file in files:
                os.close(file)
        elif request.isdigit():
            answer = os.waitstatus_to_exitcode(os.waitpid(int(request), 0)[1])
        else:
            _run_preload(request.decode())
            continue
        requests.send(str(answer).encode())


def _run_preload(spec: str) -> None:
    """Run a function. If it fails, each candidate meets the same failure itself."""
    module, function = spec.split(":")
    try:
        getattr(importlib.import_module(module), function)()
    except Exception:
        traceback.print_exc()
    gc.freeze()


def _become_worker(requests: socket.socket, spec: str, files: Sequence[int]) -> NoReturn:
    """Serve a candidate in the new process, and exit without tearing Python down, which takes a second."""
    code = 1
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        requests.close()  # so that the benchmark's connection ends with the fork server
        stdin, answers, log = files
        for file, target in ((stdin, 0), (log, 1), (log, 2)):
            os.dup2(file, target)
        os.register_at_fork(
            after_in_child=functools.partial(os.close, answers)
        )  # it must end with the worker

        from harness import worker

        worker.run(spec, answers)
        code = 0
    except Exception:
        traceback.print_exc()  # to the worker's log
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        serve(connection)
