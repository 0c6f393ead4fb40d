"""A process that has imported what every candidate needs, and forks each of them from itself.

Importing torch takes seconds of a core, and a bench has up to twenty registry. They are not forked from the bench's
own process, as threads of torch, polars and numba do not survive that; nor by multiprocessing's fork server, of which a
process has one, and `prepare` has that.
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

_WANTED = ("harness.registry", "harness.worker")
# Where what they need is installed; torch._dynamo is for the first optimizer. Not ffcv, which sets torch and numba to
# one thread; nor DALI, which may not meet a GPU before the fork.
_ALSO = (
    "numba",
    "torchvision",
    "torch._dynamo",
    "PIL.Image",
    *(
        f"harness.{name}"
        for name in ("vendor_defaults", "other_libraries", "own_loaders", "stages", "reference_rates", "step_timing")
    ),
    *(f"trainer_classification.loaders.{name}" for name in ("resident", "ffcv", "dali", "torch_dataloader")),
)
_MOST = 4096  # bytes of a request


class ForkServer:
    """The bench's end.

    Attributes:
        pid: of the process.
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
        """Start a process that serves a candidate.

        Args:
            spec: see `process.Server`.
            files: descriptors of its stdin, of what its answers go to, and of its log.

        Returns:
            Its id.

        Raises:
            RuntimeError: the get_fork_server has ended.
        """
        return self._ask(spec, files)

    def wait(self, pid: int) -> int:
        """Wait for the end of one; its exit code, or minus the signal that ended it."""
        return self._ask(str(pid), ())

    def share(self, spec: str) -> None:
        """Run "module:function" in it, so that those it forks later find done what that does; does not wait for it."""
        self._socket.send(spec.encode())

    def end(self) -> None:
        """End it, and wait for that; candidates that still run go on."""
        self._socket.close()
        self._process.wait()

    def _ask(self, request: str, files: Sequence[int]) -> int:
        socket.send_fds(self._socket, [request.encode()], files)
        if not (answer := self._socket.recv(_MOST)):
            raise RuntimeError(f"the process that candidates are forked from ended ({self._process.wait()})")
        return int(answer)


@functools.cache
def get_fork_server() -> ForkServer:
    """The only one; it ends when this process does, at the latest."""
    return ForkServer()


def serve(requests: socket.socket) -> None:
    """Fork and wait, as asked, until the bench is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the candidates, and the bench waits for that
    for name in _WANTED:
        importlib.import_module(name)
    for name in _ALSO:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()  # no collection writes to the pages that all share
    while True:
        request, files, _, _ = socket.recv_fds(requests, _MOST, 3)
        if not request:
            return
        if files:
            answer = os.fork() or _become(requests, request.decode(), files)
            for file in files:
                os.close(file)
        elif request.isdigit():
            answer = os.waitstatus_to_exitcode(os.waitpid(int(request), 0)[1])
        else:
            _share(request.decode())
            continue
        requests.send(str(answer).encode())


def _share(spec: str) -> None:
    """Run a function; what it fails in, each candidate meets by itself."""
    module, function = spec.split(":")
    try:
        getattr(importlib.import_module(module), function)()
    except Exception:
        traceback.print_exc()
    gc.freeze()


def _become(requests: socket.socket, spec: str, files: Sequence[int]) -> NoReturn:
    """In the new process: serve a candidate, and end without tearing Python down, which takes a second."""
    code = 1
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        requests.close()  # the bench's connection ends with the get_fork_server
        stdin, answers, log = files
        for file, target in ((stdin, 0), (log, 1), (log, 2)):
            os.dup2(file, target)
        os.register_at_fork(after_in_child=functools.partial(os.close, answers))  # its end is the candidate's
        from harness import worker

        worker.run(spec, answers)
        code = 0
    except Exception:
        traceback.print_exc()  # to its log
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        serve(connection)
